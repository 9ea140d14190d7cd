"""The way of the data: recordings -> paired, masked windows on disk -> split -> batches."""
