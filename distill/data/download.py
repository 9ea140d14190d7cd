"""Official archives of public sets, fetched once by TFDS's download manager and unpacked here.

TFDS holds what it fetches to the checksums it knows: those of checksums.tsv beside the data sets,
and those recorded when an archive was first fetched and found whole, so that one that changes later
is noticed. Unpacking is ours: TFDS's own needs TensorFlow.
"""

import pathlib
import sys

import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core.download import checksums, download_manager, downloader

from distill.data import untrusted
from distill.errors import DistillError

CHECKSUMS = "checksums.tsv"  # URL, bytes, SHA-256 and file name, separated by tabs
KNOWN = pathlib.Path(__file__).parent / "datasets" / CHECKSUMS
DEPTH = 3  # folders that archives have around what they hold


def fetch(
  name: str, url: str, layout: str, folder: pathlib.Path, *, licence: str, progress: bool = True
) -> pathlib.Path:
  """The folder with the files of a set, fetched and unpacked unless they are there already.

  Args:
    name: of the set.
    url: of a zip archive, which may hold further ones.
    layout: glob of what the set's folder holds.
    folder: for archives, unpacked files and recorded checksums.
    licence: shown before anything is fetched.
    progress: show what is done on standard error.

  Raises:
    DistillError: the archive cannot be had, is damaged, is not the one that is known, or holds
      something else.
  """
  place = folder / f"{name}-{checksums.sha256(url)[:8]}"  # another release has another address
  if not place.is_dir():
    if progress:
      tqdm.tqdm.write(f"{name}: fetching {url} (licence: {licence})", file=sys.stderr)
    else:
      tfds.disable_progress_bar()
    _unpacked(url, folder, place)
  found = _find(place, layout)
  if found is None:
    for archive in sorted([*place.glob("*.zip"), *place.glob("*/*.zip")]):
      inner = archive.with_suffix("")
      if not inner.exists():
        untrusted.unpack(archive, inner)
    found = _find(place, layout)
  if found is None:
    raise DistillError(f"{url} holds no {layout}; it was unpacked into {place}")
  return found


def _unpacked(url: str, folder: pathlib.Path, place: pathlib.Path) -> None:
  recorded = folder / CHECKSUMS
  known = checksums.load_url_infos(recorded) if recorded.is_file() else {}
  known |= checksums.load_url_infos(KNOWN)
  try:
    manager = tfds.download.DownloadManager(download_dir=folder, url_infos=known)
    archive = pathlib.Path(manager.download(url))
  except (tfds.download.DownloadError, download_manager.NonMatchingChecksumError, OSError) as error:
    raise DistillError(f"{url} cannot be fetched: {' '.join(str(error).split())}") from error
  try:
    untrusted.unpack(archive, place)
  except DistillError:
    # Else it, or TFDS's note on it, would be taken for the real one the next time.
    archive.unlink()
    archive.with_name(archive.name + ".INFO").unlink()
    raise
  checksums.save_url_infos(recorded, {url: downloader.read_url_info(archive)})


def _find(root: pathlib.Path, layout: str) -> pathlib.Path | None:
  """The first folder, the outermost first, that holds the layout."""
  for depth in range(DEPTH + 1):
    for folder in sorted(root.glob("/".join("*" * depth))) if depth else [root]:
      if folder.is_dir() and next(folder.glob(layout), None):
        return folder
  return None
