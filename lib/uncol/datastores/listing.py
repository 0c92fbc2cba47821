"""What a studies folder holds: its scans, its labels, and what is neither, with the reason."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from uncol.data.imagefile import file_extension
from uncol.errors import why
from uncol.storage.plain import is_plain, plain_name

LABELS = "labels"  # `labels/<tag>/<case><extension>`
FINAL = plain_name("final", "label tag")  # the tag of labels that count
# in this order of precedence, where one name has several files; a mask is never a JPEG
SCAN_FORMATS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"),
    *(".jpg", ".jpeg", ".tif", ".tiff", ".png", ".bmp"),
)
HEADERS = (".nhdr", ".mhd")  # whose voxels lie beside them
VOXELS = (".raw", ".zraw", ".raw.gz", ".img", ".hdr")
# a file that is being written, by which process and thread; whatever begins so is ours
OURS = ".uncol-"
PARTIAL = OURS + "{}-{}{}"
OTHER_FORMATS = {  # somebody may take these for scans that uncol reads
    *(".img", ".hdr", ".mgz", ".mgh", ".mnc", ".gipl", ".vtk", ".par", ".rec", ".bz2", ".gz"),
    *(".svs", ".ndpi", ".czi", ".gif", ".webp", ".zip", ".tar", ".7z"),
}
FINAL_FORMATS = (*SCAN_FORMATS, ".seg.nrrd")
NOT_SCANS = {"labels", "derivatives", "sourcedata", "code"}  # the last three are BIDS's
PATH_SIGN = "__"  # stands for a folder's end in a case's name
DICOM_MARK = (128, b"DICM")  # at which byte of a file
DICOM = (
    "it holds DICOM files; store them in a PACS (docs/ohif.md), or convert them, for example with "
    "dcm2niix"
)
SEGMENTATION = f"it is a segmentation; submit it, or put it into {LABELS}/final"


@dataclass(frozen=True)
class Stamp:
    """What a file looks like from outside; changes whenever its content is written anew.

    Attributes:
        size: bytes; of a header whose voxels lie beside it, with those.
        mtime_ns: time of the last change of the content, ns.
        ctime_ns: time of the last change of any kind, which no program can set, ns.
    """

    size: int
    mtime_ns: int
    ctime_ns: int = 0

    @classmethod
    def of(cls, path: Path | str) -> Stamp:
        """Return a file's stamp; of a link, that of what it points to.

        Raises:
            OSError: there is no such file, or it is a pipe, a folder, or the like.
        """
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        parts = [status, *_beside(Path(path))]
        return cls(
            sum(one.st_size for one in parts),
            max(one.st_mtime_ns for one in parts),
            max(one.st_ctime_ns for one in parts),
        )


def _beside(path: Path) -> list[os.stat_result]:
    """Return what the files look like that hold the voxels of a header."""
    if file_extension(path) not in HEADERS:
        return []
    stem = path.name[: -len(path.suffix)]
    beside = (path.with_name(f"{stem}{end}") for end in VOXELS)
    return [one.stat() for one in beside if one.is_file()]


@dataclass
class FolderContent:
    """What a studies folder holds.

    Attributes:
        scans: file (relative to the folder) and stamp by case name.
        labels: file and stamp by `(case, tag)`.
        left_out: why a file or folder is not a case, by its path relative to the folder.
        waiting: cases that are there, but whose file may still be arriving.
        unreadable: tags whose labels cannot be listed now.
    """

    scans: dict[str, tuple[str, Stamp]] = field(default_factory=dict)
    labels: dict[tuple[str, str], tuple[str, Stamp]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)

    def hides(self, label: str) -> bool:
        """Say whether a label (`case/tag`) may be there though it is not listed."""
        return label.split("/", 1)[1] in self.unreadable

    def leave_out(self, relative: str, reason: str) -> None:
        """Note why a file or folder is not taken."""
        shown = os.fsencode(relative).decode("utf-8", "backslashreplace")
        self.left_out[shown] = reason


def look_into(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> FolderContent:
    """List a studies folder and all of its subfolders.

    A scan in the folder itself is called as its file. One in a subfolder is, too, if the file's
    name begins with that of the uppermost subfolder, as in BIDS (`sub-01/anat/sub-01_T1w.nii.gz`
    is `sub-01_T1w`); else the subfolders' names stand before it, joined by `__`.

    Args:
        folder: the folder.
        known: the files of cases known so far; of two files of one name, the known one counts.

    Raises:
        OSError: the folder cannot be read.
    """
    content = FolderContent()
    files: dict[str, list[str]] = {}
    for relative in _files(folder, content):
        extension = file_extension(relative)
        files.setdefault(_name_of(relative, extension), []).append(relative)
    for name, rivals in files.items():
        first, *others = sorted(rivals, key=lambda one: (one != known.get(name), _precedence(one)))
        _take(folder, name, first, content)
        for other in others:
            content.leave_out(other, f"{first} has the same name; rename one of them")
    for tag in _names_in(folder / LABELS):
        if is_plain(tag) and (folder / LABELS / tag).is_dir():
            _take_labels(folder, tag, content)
    return content


def files_of(folder: Path, case: str) -> list[Path]:
    """Return a case's label files in a tag's folder, in whatever format."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if name[: -len(file_extension(name))] == case]


def _take(folder: Path, name: str, file: str, content: FolderContent) -> None:
    if not is_plain(name) or not _is_utf8(file):
        reason = "its name is too long, or holds characters that are not UTF-8; rename it"
        content.leave_out(file, reason)
        return
    try:
        content.scans[name] = (file, Stamp.of(folder / file))
    except OSError as error:
        content.leave_out(file, _why(error))


def _take_labels(folder: Path, tag: str, content: FolderContent) -> None:
    try:
        names = sorted(os.listdir(folder / LABELS / tag))
    except OSError as error:
        content.unreadable.add(tag)
        content.leave_out(f"{LABELS}/{tag}", _why(error))
        return
    for name in names:
        relative = f"{LABELS}/{tag}/{name}"
        case = name[: len(name) - len(file_extension(name))]
        if not is_plain(case):  # hidden: what is being written, or an AppleDouble twin
            continue
        if not _is_utf8(name) or (tag == FINAL and file_extension(name) not in FINAL_FORMATS):
            content.leave_out(relative, "it is no label that uncol reads")
            continue
        try:
            here = (relative, Stamp.of(folder / relative))
        except OSError as error:
            content.leave_out(relative, _why(error))
            content.unreadable.add(tag)
            continue
        rivals = [here, content.labels.get((case, tag), here)]
        content.labels[case, tag] = max(rivals, key=lambda one: one[1].mtime_ns)
        for older in rivals:
            if older != content.labels[case, tag]:
                content.leave_out(older[0], "a newer label of this case is there; remove one")


def _files(folder: Path, content: FolderContent) -> Iterator[str]:
    """Yield the files that may be scans, relative to the folder; note what is left out."""
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        content.leave_out(os.path.relpath(error.filename, folder), _why(error))

    for place, folders, names in os.walk(folder, followlinks=True, onerror=note):
        status = os.stat(place)
        inner = os.path.relpath(place, folder)
        before = "" if inner == "." else f"{inner}/"
        folders[:] = _to_enter(folders, NOT_SCANS if not before else ())
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        plain = [name for name in sorted(names) if name[0] != "."]
        _tell_dicom(Path(place), inner, plain, content)
        yield from (f"{before}{n}" for n in plain if _may_be_scan(f"{before}{n}", content))


def _tell_dicom(place: Path, inner: str, names: Iterable[str], content: FolderContent) -> None:
    if any(_is_dicom(place / name) for name in names):
        content.leave_out(inner, DICOM)


def _to_enter(folders: Iterable[str], skipped: Container[str]) -> list[str]:
    return sorted(one for one in folders if one[0] != "." and one not in skipped)


def _may_be_scan(relative: str, content: FolderContent) -> bool:
    """Say whether a file has a scan's extension; note it if somebody may take it for a scan."""
    extension = file_extension(relative)
    if extension in OTHER_FORMATS:
        content.leave_out(relative, "uncol does not read this format; convert it")
    elif extension == ".seg.nrrd":
        content.leave_out(relative, SEGMENTATION)
    return extension in SCAN_FORMATS


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    place, mark = DICOM_MARK
    try:
        with path.open("rb") as stream:
            stream.seek(place)
            return stream.read(len(mark)) == mark
    except OSError:
        return False


def _name_of(relative: str, extension: str) -> str:
    *folders, name = relative.split("/")
    stem = name[: len(name) - len(extension)]
    return stem if not folders or stem.startswith(folders[0]) else PATH_SIGN.join((*folders, stem))


def _is_utf8(relative: str) -> bool:
    try:
        relative.encode()
    except UnicodeEncodeError:
        return False
    return True


def _precedence(relative: str) -> tuple[int, str]:
    return SCAN_FORMATS.index(file_extension(relative)), relative


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _why(error: OSError) -> str:
    return f"it cannot be read: {why(error)}"
