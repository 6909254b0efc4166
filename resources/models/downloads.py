"""Fetching checkpoints into the folder of weights: resumable, verified, and recorded.

One downloader serves hub repositories and plain URLs. It speaks HTTP itself, so that both resume, are verified and are
recorded in the same way, in every environment of this project: the hub's own client is part of one extra only, keeps
files in a cache of its own with links between them, and knows nothing of other URLs.

A file is written as ``.NAME.part`` beside its place and takes its name only when size and digest are right. What a
broken connection or a killed process leaves is continued, unless the file changed on the server.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from ego_assets.schema.errors import BackendUnavailable, ConfigurationError, EgoAssetsError, InsufficientDisk
from resources.models.registry import ModelCard
from resources.models.weights import (
    COMPANIONS,
    LOCK_FILE,
    RecordedFile,
    RecordedRepository,
    all_files,
    changed_lock,
    expected_digest,
    file_states,
    forget,
    only_one,
    read_lock,
    require_writable,
    weights_digest,
)

if TYPE_CHECKING:
    import requests

_DEFAULT_ENDPOINT = "https://huggingface.co"
_CHUNK_BYTES = 1 << 18
#: So much at most is lost of an unfinished file when the machine itself fails.
_SYNC_EVERY_BYTES = 64 << 20
_CONNECT_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 60.0
_LONGEST_PAUSE_S = 60.0
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE, _SERVER_ERROR = 200, 206, 416, 500
_REFUSED = frozenset({401, 403})
#: Request Timeout, Too Early, Too Many Requests.
_PASSING = frozenset({408, 425, 429})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: Where only this side knows how long a file has to be.
_MAY_BE_REPLACED = "if it always ends there, the publisher replaced the file"

_TERMS = ("LICENSE", "LICENCE", "NOTICE")
#: Other formats of the same weights, and lists of their parts.
_OTHER_FORMATS = ("pytorch_model", "tf_model", "flax_model", "consolidated")
_WEIGHTS = frozenset({".safetensors", ".pdiparams", ".pt", ".pth", ".onnx", ".bin", ".zip", ".jit"})

#: File, bytes that are there, bytes in all (0 where nobody says).
ProgressCallback = Callable[[str, int, int], None]


class DownloadFailed(EgoAssetsError):
    """A file could not be fetched, or is not the expected one; the message says what to do."""


class _TryAgain(Exception):
    """A failure that may pass, with the pause in seconds that the server asks for."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        path: Its path in the folder of weights.
        url: Where it is.
        sha256: Its digest, or the first digits; empty where nobody states it.
        git_sha1: Its digest as git computes it, which hubs state of small files; or empty.
        size_bytes: Its size; 0 where nobody states it.
    """

    path: str
    url: str
    sha256: str = ""
    git_sha1: str = ""
    size_bytes: int = 0

    @property
    def is_known(self) -> bool:
        """Whether a digest can be checked."""
        return bool(self.sha256 or self.git_sha1)


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did; paths of files.

    Attributes:
        fetched: Those that were downloaded.
        kept: Those that were there already.
        set_aside: Those that the repository held at an earlier commit, or people recorded, and does not hold now; they
            are hidden as ``.NAME.replaced``.
    """

    fetched: tuple[Path, ...]
    kept: tuple[Path, ...]
    set_aside: tuple[Path, ...] = ()


def is_offline() -> bool:
    """Whether the environment forbids downloads: ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def hub_endpoint() -> str:
    """Address of the model hub: ``HF_ENDPOINT``, by default the public one.

    Raises:
        ConfigurationError: It is no address of HTTP.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _DEFAULT_ENDPOINT
    if not endpoint.startswith(("https://", "http://")):
        raise ConfigurationError(
            f"HF_ENDPOINT: expected an address such as {_DEFAULT_ENDPOINT}, got {endpoint!r}."
        )
    return endpoint


def sources(card: ModelCard) -> dict[str, str]:
    """Path in the folder of weights -> address, for people who carry files by hand; empty where there is none."""
    found = {
        card.path_of(file): file.url or (_resolve_url(card.hub, card.revision, file.path) if card.hub else "")
        for file in card.files
    }
    if card.weights_pattern:
        found[str(PurePosixPath(card.folder) / card.weights_pattern)] = ""
    return found


def by_hand(card: ModelCard, models_dir: Path) -> str:
    """Sentences that say where a checkpoint's files are and where to put them."""
    lines = [f"  {address or card.source} -> {models_dir / path}" for path, address in sources(card).items()]
    if card.hub:
        page = f"{hub_endpoint()}/{card.hub}/tree/{card.revision}"
        kinds = ".json and .txt" if _names_weights(card) else ".json, .txt and .safetensors"
        lines.append(
            f"  the other {kinds} files of {page}, where there are any -> {models_dir / card.folder}"
        )
    if card.hint:
        lines.append(f"  {card.hint}")
    return "\n".join([f"{card.name} ({card.key}):", *lines])


def is_complete(card: ModelCard, models_dir: Path) -> bool:
    """Whether all files are there and right; of a repository, only once they were pulled, or recorded by hand."""
    if card.hub:
        recorded = read_lock(models_dir).repositories.get(card.key)
        if recorded is None:
            # Nobody listed the repository: those that the card names have to do, and weights have to be among them.
            if not _hold_weights(file.path for file in all_files(card, models_dir)):
                return False
        elif (recorded.hub, recorded.revision) != (card.hub, card.revision):
            return False
    return all(state.state == "ok" for state in file_states(card, models_dir))


def refuse_offline(missing: Sequence[ModelCard], models_dir: Path) -> NoReturn:
    """Say how files of checkpoints are brought by hand, where downloads are forbidden.

    Raises:
        BackendUnavailable: Always.
    """
    keys = [card.key for card in missing]
    raise BackendUnavailable(
        f"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids downloads, and {', '.join(keys)} cannot be completed without. "
        "Unset it, or pull on another machine and copy its folder of weights with models.lock.json, or fetch these "
        f"files by hand and run `ego-assets models verify {' '.join(keys)} --record`:\n"
        + "\n".join(by_hand(card, models_dir) for card in missing)
    )


class Downloader:
    """Fetches checkpoints into a folder of weights.

    Args:
        models_dir: The folder; made where it is missing.
        require_space: Called with the bytes to be written, before; raises where they do not fit.
        on_progress: Told how far each file is.
        say: Told in a sentence what a pull waits for, hides or no longer demands.
        attempts: Failures in a row, without a byte more, after which a file is given up.
        first_pause_s: Pause after the first failure; it doubles with each.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        require_space: Callable[[int], None] = lambda needed_bytes: None,
        on_progress: ProgressCallback = lambda file, done, total: None,
        say: Callable[[str], None] = lambda sentence: None,
        attempts: int = 6,
        first_pause_s: float = 1.0,
    ) -> None:
        import requests

        self._models_dir = models_dir
        self._require_space = require_space
        self._on_progress = on_progress
        self._say = say
        self._attempts = attempts
        self._first_pause_s = first_pause_s
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "ego-assets"

    def pull(self, card: ModelCard, *, again: bool = False) -> Pulled:
        """Fetch what is missing or damaged of a checkpoint, and record what every file is.

        A hub's branch is followed once: later pulls fetch the commit that was recorded. Two pulls of the same
        checkpoint wait for one another.

        Args:
            card: The checkpoint; one that can be downloaded.
            again: Fetch what is published now, whatever was recorded before.

        Raises:
            BackendUnavailable: Something is missing, and downloads are forbidden; or the lock file cannot be read.
            ConfigurationError: HF_ENDPOINT is no address.
            DownloadFailed: The server refused, could not be reached, or sent another file; a file here cannot be read
                or written; or one that people recorded, and no server has, is damaged.
            InsufficientDisk: There is no room.
        """
        if not card.is_downloadable:
            raise ValueError(f"{card.name} cannot be downloaded")
        with _disk_errors(self._models_dir):
            return self._pulled(card, again=again)

    def _pulled(self, card: ModelCard, *, again: bool) -> Pulled:
        # A complete folder may be one that others keep and nobody here may write.
        if not again and is_complete(card, self._models_dir):
            return Pulled(fetched=(), kept=self._paths(card))
        if is_offline():
            refuse_offline([card], self._models_dir)
        require_writable(self._models_dir)
        with only_one(
            self._models_dir / f".pull-{card.key}.lock",
            on_wait=lambda: self._say(f"Another process is pulling {card.key}; this one waits for it."),
        ):
            # Somebody else may have fetched it meanwhile.
            if not again and is_complete(card, self._models_dir):
                return Pulled(fetched=(), kept=self._paths(card))
            repository, files = self._listing(card, again=again)
            return self._pull(card, files, repository, again=again)

    def _paths(self, card: ModelCard) -> tuple[Path, ...]:
        return tuple(self._models_dir / card.path_of(file) for file in all_files(card, self._models_dir))

    def _pull(
        self,
        card: ModelCard,
        files: tuple[RemoteFile, ...],
        repository: RecordedRepository | None,
        *,
        again: bool,
    ) -> Pulled:
        missing = [file for file in files if not self._is_there(file)]
        needed_bytes = sum(max(0, file.size_bytes - _size(self._part(file))) for file in missing)
        if not all(file.size_bytes for file in missing):
            there = sum(_size(self._models_dir / file.path) + _size(self._part(file)) for file in files)
            needed_bytes = max(needed_bytes, card.about_bytes - there)
        self._require_space(needed_bytes)
        for file in missing:
            self._fetch(file, card)
        entries = {
            file.path: RecordedFile(
                sha256=weights_digest(self._models_dir / file.path),
                size_bytes=(self._models_dir / file.path).stat().st_size,
                models=(card.key,),
            )
            for file in files
        }
        with changed_lock(self._models_dir) as (recorded, repositories):
            others = {
                path: entry
                for path, entry in recorded.items()
                if entry.models == (card.key,) and path not in entries
            }
            is_another = repository is not None and _is_another_commit(
                repositories.get(card.key), repository, again=again
            )
            forget(card, recorded)
            recorded.update(entries)
            if not is_another:
                # The repository never held them: people recorded them.
                recorded.update(
                    {path: entry for path, entry in others.items() if (self._models_dir / path).is_file()}
                )
            if repository is not None:
                repositories[card.key] = repository
            # Before it is recorded, so that a pull that is killed here is not taken for complete.
            set_aside = self._set_aside(card, others) if is_another else ()
        if not is_another:
            self._judge_others(card, others)
        fetched = {file.path for file in missing}
        return Pulled(
            fetched=tuple(self._models_dir / path for path in entries if path in fetched),
            kept=tuple(self._models_dir / path for path in entries if path not in fetched),
            set_aside=set_aside,
        )

    def _set_aside(self, card: ModelCard, names: Iterable[str]) -> tuple[Path, ...]:
        """Hide files that a repository does not hold at its new commit; returns those that were there.

        Beside the new files libraries would load them.
        """
        paths = [path for path in (self._models_dir / name for name in sorted(names)) if path.is_file()]
        for path in paths:
            hidden = path.with_name(f".{path.name}.replaced")
            path.replace(hidden)
            self._say(f"{card.key}: {card.hub} does not hold {path} now; it is set aside as {hidden.name}.")
        return tuple(paths)

    def _judge_others(self, card: ModelCard, recorded: Mapping[str, RecordedFile]) -> None:
        """Say what became of files that people recorded and that nobody can send.

        Args:
            card: The checkpoint.
            recorded: Path -> what was recorded; those that are gone are no longer in the lock file.

        Raises:
            DownloadFailed: One is there and is another one.
        """
        where = card.hub or card.source
        for name, entry in sorted(recorded.items()):
            path = self._models_dir / name
            if not path.is_file():
                self._say(
                    f"{card.key}: {path} was recorded and is gone; {where} does not hold it, so it is no longer "
                    "demanded."
                )
            elif (actual := weights_digest(path)) != entry.sha256:
                raise DownloadFailed(
                    f"{path} has sha256 {actual}, expected {entry.sha256}: it was recorded here, and {where} does not "
                    "hold it. Restore it, or remove it and pull again; what is published is there."
                )

    def _listing(
        self, card: ModelCard, *, again: bool
    ) -> tuple[RecordedRepository | None, tuple[RemoteFile, ...]]:
        if not card.hub:
            return None, tuple(
                RemoteFile(
                    path=card.path_of(file),
                    url=file.url,
                    sha256=(file.sha256 or file.sha256_begins)
                    if again
                    else expected_digest(card, file, self._models_dir),
                    size_bytes=file.size_bytes,
                )
                for file in card.files
            )
        lock = read_lock(self._models_dir)
        recorded = lock.repositories.get(card.key)
        known = (
            recorded is not None
            and not again
            and (recorded.hub, recorded.revision) == (card.hub, card.revision)
        )
        revision = recorded.commit if recorded is not None and known else card.revision
        # Of a commit that was recorded the hub states the digests; what people recorded themselves is not replaced.
        by_hand = {} if again or recorded is not None else lock.files
        commit, files = self._hub_files(card, revision, by_hand)
        return RecordedRepository(hub=card.hub, revision=card.revision, commit=commit), files

    def _hub_files(
        self, card: ModelCard, revision: str, demanded_files: Mapping[str, RecordedFile]
    ) -> tuple[str, tuple[RemoteFile, ...]]:
        """The commit behind a revision, and what belongs to the checkpoint there.

        Args:
            card: The checkpoint.
            revision: Branch, tag or commit.
            demanded_files: Path -> what the file has to be, besides what the card demands.
        """
        url = f"{hub_endpoint()}/api/models/{card.hub}/revision/{quote(revision, safe='')}?blobs=true"
        content = self._with_patience(url, lambda: self._json(url, card))
        try:
            commit = str(content["sha"])
            listed = {str(row["rfilename"]): row for row in content["siblings"]}
        except (KeyError, TypeError) as error:
            raise DownloadFailed(
                f"{url} answers something else than a hub does. Check HF_ENDPOINT."
            ) from error
        names = wanted_files(card, listed)
        stated = {file.path: file for file in card.files}
        files = []
        for name in names:
            row = listed[name]
            lfs = row.get("lfs") or {}
            sha256 = str(lfs.get("sha256", ""))
            path = str(PurePosixPath(card.folder) / name)
            demanded, by, way = stated[name].sha256 if name in stated else "", "the registry", ""
            if not demanded and path in demanded_files:
                demanded, by = demanded_files[path].sha256, LOCK_FILE
                way = f" `ego-assets models pull {card.key} --again` takes what is published now."
            if demanded and sha256 and sha256 != demanded:
                raise DownloadFailed(
                    f"{card.name}: {card.hub} holds another {name} at {commit} (sha256 {sha256}) than {by} "
                    f"demands ({demanded}).{way}"
                )
            files.append(
                RemoteFile(
                    path=path,
                    url=_resolve_url(card.hub, commit, name),
                    sha256=sha256 or demanded,
                    git_sha1="" if lfs else str(row.get("blobId", "")),
                    size_bytes=int(lfs.get("size") or row.get("size") or 0),
                )
            )
        return commit, tuple(files)

    def _json(self, url: str, card: ModelCard) -> Any:
        with self._get(url, {}) as response:
            self._check_status(response, url, card)
            try:
                return response.json()
            except ValueError as error:
                raise DownloadFailed(
                    f"{url} answers something else than a hub does. Check HF_ENDPOINT."
                ) from error

    def _is_there(self, file: RemoteFile) -> bool:
        path = self._models_dir / file.path
        if not path.is_file() or (file.size_bytes and path.stat().st_size != file.size_bytes):
            return False
        return not file.is_known or _difference(path, file) == ""

    def _part(self, file: RemoteFile) -> Path:
        path = self._models_dir / file.path
        return path.with_name(f".{path.name}.part")

    def _fetch(self, file: RemoteFile, card: ModelCard) -> None:
        """Download a file, verify it, and give it its name."""
        target = self._models_dir / file.path
        with _disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = self._complete_part(file, card)
            part.replace(target)
            _state_path(part).unlink(missing_ok=True)
            _sync_folder(target.parent)

    def _complete_part(self, file: RemoteFile, card: ModelCard) -> Path:
        """Download what is missing of a file and verify the whole; returns where it is."""
        part = self._part(file)
        _discard_another(part, file)
        if not file.is_known and _size(part):
            # Nothing would tell whether its end reached the disk.
            os.truncate(part, max(0, _size(part) - _SYNC_EVERY_BYTES))
        begun_before = _size(part) > 0
        self._with_patience(file.url, lambda: self._transfer(file, card), progress=lambda: _size(part))
        if (difference := _difference(part, file)) and begun_before:
            # The beginning may be that of another file.
            _discard(part)
            self._with_patience(file.url, lambda: self._transfer(file, card), progress=lambda: _size(part))
            difference = _difference(part, file)
        if difference:
            _discard(part)
            raise _not_expected(
                file,
                difference,
                " If a proxy or mirror lies between, it may serve another file; otherwise the publisher replaced it.",
            )
        return part

    def _transfer(self, file: RemoteFile, card: ModelCard) -> None:
        """One attempt: what is missing of the unfinished file."""
        part = self._part(file)
        _discard_another(part, file)
        state = _read_state(part)
        begin = _size(part)
        if begin and begin == file.size_bytes:
            return
        headers = {}
        if begin:
            validator = state.get("validator", "")
            if not validator and not file.is_known:
                _discard(part)
                begin = 0
            else:
                headers["Range"] = f"bytes={begin}-"
                if validator:
                    headers["If-Range"] = validator
        with self._get(file.url, headers) as response:
            begun, total_bytes = _content_range(response.headers.get("Content-Range", ""))
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                _discard(part)
                _require_size(file, total_bytes)
                reason = f"the server refused to continue after {_so_far(begin, file.size_bytes)}"
                raise _TryAgain(f"{reason}; {_MAY_BE_REPLACED}" if file.size_bytes else reason)
            self._check_status(response, file.url, card)
            encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            if response.status_code == _PARTIAL:
                if begun != begin or _is_another(response.headers, state):
                    _discard(part)
                    raise _TryAgain("the file changed on the server")
                if encoded:
                    # Its bytes are counted otherwise than those that are here.
                    _discard(part)
                    raise _TryAgain("the server continues in another encoding")
            else:
                begin, total_bytes = 0, int(response.headers.get("Content-Length") or 0)
            if encoded:
                total_bytes = 0
            try:
                _require_size(file, total_bytes)
            except DownloadFailed:
                _discard(part)
                raise
            if not file.size_bytes:
                self._require_space(max(0, total_bytes - begin))
            if not begin:
                _discard(part)
                # What was decoded cannot be continued: without its address the next attempt begins anew.
                state = {} if encoded else {"url": file.url, "validator": _validator(response.headers)}
                _state_path(part).write_text(json.dumps(state))
            expected_bytes = total_bytes or file.size_bytes
            done = self._write(response, part, file, expected_bytes, encoded=encoded)
        if done < expected_bytes:
            reason = f"the connection ended after {_so_far(done, expected_bytes)}"
            raise _TryAgain(reason if total_bytes else f"{reason}; {_MAY_BE_REPLACED}")

    def _write(
        self, response: requests.Response, part: Path, file: RemoteFile, total_bytes: int, *, encoded: bool
    ) -> int:
        """Append a response to the unfinished file; returns its size."""
        done = synced = _size(part)
        # What the network raises is tried again, and passes; what the disk raises does not.
        with _disk_errors(part):
            # Nothing stays in a buffer of this process: it may be killed.
            target = part.open("ab", buffering=0)
        with target:
            try:
                for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=encoded):
                    with _disk_errors(part):
                        _write_all(target, chunk)
                        done += len(chunk)
                        if done - synced >= _SYNC_EVERY_BYTES:
                            os.fdatasync(target.fileno())
                            synced = done
                    self._on_progress(file.path, done, total_bytes)
            finally:
                with _disk_errors(part):
                    os.fsync(target.fileno())
        return done

    def _get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """A request, answered as a stream. The hub's token goes to the hub only, never to where it redirects."""
        token = os.environ.get("HF_TOKEN", "").strip()
        to_hub = url.startswith(f"{hub_endpoint()}/")
        return self._session.get(
            url,
            headers={"Accept-Encoding": "identity", **headers},
            auth=_Bearer(token) if token and to_hub else None,
            stream=True,
            timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S),
        )

    def _check_status(self, response: requests.Response, url: str, card: ModelCard) -> None:
        status = response.status_code
        if status in (_OK, _PARTIAL):
            return
        if status in _PASSING or status >= _SERVER_ERROR:
            raise _TryAgain(f"status {status}", _seconds(response.headers.get("Retry-After", "")))
        if status in _REFUSED and url.startswith(f"{hub_endpoint()}/"):
            page = f"{hub_endpoint()}/{card.hub}" if card.hub else "its page there"
            raise DownloadFailed(
                f"{url} is refused (status {status}). Accept the licence at {page}, if it asks for that, and put a "
                "token with the right to read into HF_TOKEN."
            )
        raise DownloadFailed(
            f"{url} cannot be fetched (status {status}). The publisher may have moved it: look at {card.source}, put "
            f"the files of {card.key} into {self._models_dir / card.folder} by hand, and run `ego-assets models verify "
            f"{card.key} --record`."
        )

    def _with_patience(
        self, url: str, work: Callable[[], Any], *, progress: Callable[[], int] = lambda: 0
    ) -> Any:
        """Try until it succeeds, or fails for good; pauses grow while nothing comes."""
        import requests
        import urllib3

        failures = 0
        most = progress()
        while True:
            try:
                return work()
            except (
                requests.exceptions.InvalidURL,
                requests.exceptions.InvalidSchema,
                requests.exceptions.MissingSchema,
            ) as error:
                raise DownloadFailed(
                    f"{url} cannot be asked for: {error}. Check HF_ENDPOINT and HTTPS_PROXY."
                ) from error
            except (
                _TryAgain,
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                ConnectionError,
                TimeoutError,
            ) as error:
                # More than ever: one that begins anew and ends at the same byte each time comes to an end.
                failures = 1 if progress() > most else failures + 1
                most = max(most, progress())
                if failures >= self._attempts:
                    raise DownloadFailed(
                        f"{url} could not be fetched: {_reason(error)}. Given up after {failures} attempts; what is "
                        f"there is kept, and the same command goes on.{_way_out(url, error)}"
                    ) from error
                asked = error.pause_s if isinstance(error, _TryAgain) else 0.0
                pause_s = min(_LONGEST_PAUSE_S, max(asked, self._first_pause_s * 2 ** (failures - 1)))
                self._say(f"{url}: {_reason(error)}. Tried again in {pause_s:.0f} s.")
                time.sleep(pause_s)
            except OSError as error:
                if error.errno is not None:
                    raise
                # Not of the system: requests says so what is wrong before it asks, such as missing certificates.
                raise DownloadFailed(
                    f"{url} cannot be asked for: {error}. Check REQUESTS_CA_BUNDLE, HF_ENDPOINT and HTTPS_PROXY."
                ) from error


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say what the system refuses, with the file: the one that an error names, otherwise ``path``.

    Raises:
        DownloadFailed: A file cannot be read or written.
        InsufficientDisk: The disk, or the share of it that this account may use, is full.
    """
    try:
        yield
    except OSError as error:
        # Of a renamed file the place it goes to.
        named = error.filename2 or error.filename
        where = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else path
        reason = error.strerror or str(error) or type(error).__name__
        if error.errno in _DISK_FULL:
            raise InsufficientDisk(
                f"The disk of {where.parent} is full, or your quota there ({reason}). Free some space; the same "
                "command goes on from here."
            ) from error
        raise DownloadFailed(
            f"{where} cannot be read or written: {reason}. Correct that; the same command goes on from here."
        ) from error


def _write_all(target: io.FileIO, chunk: bytes) -> None:
    """Write all of it: without a buffer a write may take a part."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[target.write(rest) :]


def _is_another_commit(before: RecordedRepository | None, now: RecordedRepository, *, again: bool) -> bool:
    """Whether a pull replaces what is there by another commit; of files brought by hand, whether that was asked for."""
    return again if before is None else (before.hub, before.commit) != (now.hub, now.commit)


def wanted_files(card: ModelCard, listed: Mapping[str, Any]) -> list[str]:
    """Which files of a repository belong to a checkpoint, by name.

    Those of the card, and beside them configuration, tokenizer and licence. Where the card names no weights, all
    safetensors: the shards of a large model. The same weights in other formats are left out.

    Raises:
        DownloadFailed: A file of the card is not there, or there are no weights.
    """
    named = {file.path for file in card.files}
    folders = {PurePosixPath(name).parent for name in named}

    def is_wanted(name: str) -> bool:
        path = PurePosixPath(name)
        if name in named:
            return True
        # Nothing from elsewhere: neither other folders nor ways out of this one.
        if path.parent not in folders:
            return False
        if path.name.startswith(_OTHER_FORMATS):
            return False
        if path.name.endswith((".safetensors", ".safetensors.index.json")):
            return not _names_weights(card)
        return path.suffix in COMPANIONS or path.name.startswith(_TERMS)

    wanted = sorted(filter(is_wanted, listed))
    if missing := sorted(named - set(wanted)):
        raise DownloadFailed(
            f"{card.name}: {card.hub} holds no {', '.join(missing)}. Its publisher may have changed it; there are: "
            f"{', '.join(sorted(listed))}."
        )
    if not _hold_weights(wanted):
        raise DownloadFailed(
            f"{card.name}: {card.hub} holds no weights as safetensors; there are: {', '.join(sorted(listed))}."
        )
    return wanted


def _names_weights(card: ModelCard) -> bool:
    return _hold_weights(file.path for file in card.files)


def _hold_weights(names: Iterable[str]) -> bool:
    """Whether weights are among some files, by their names."""
    return any(PurePosixPath(name).suffix in _WEIGHTS for name in names)


class _Bearer:
    """Puts a token into a request; unlike a header it wins over what a .netrc file says."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _resolve_url(hub: str, revision: str, path: str) -> str:
    return f"{hub_endpoint()}/{hub}/resolve/{quote(revision, safe='')}/{quote(path)}"


def _not_expected(file: RemoteFile, difference: str, hint: str = "") -> DownloadFailed:
    return DownloadFailed(f"{file.url} is not the expected file: {difference}. Nothing of it was kept.{hint}")


def _require_size(file: RemoteFile, total_bytes: int) -> None:
    """Refuse a file of another size; 0 where the server does not say it.

    Raises:
        DownloadFailed: It has another size.
    """
    if file.size_bytes and total_bytes not in (0, file.size_bytes):
        raise _not_expected(file, f"it has {total_bytes} bytes, expected {file.size_bytes}")


def _so_far(done: int, expected_bytes: int) -> str:
    return f"{done} of {expected_bytes} bytes" if expected_bytes else f"{done} bytes"


def _difference(path: Path, file: RemoteFile) -> str:
    """How a file differs from what was expected; empty where it does not."""
    size_bytes = path.stat().st_size
    if file.size_bytes and size_bytes != file.size_bytes:
        return f"it has {size_bytes} bytes, expected {file.size_bytes}"
    if file.sha256 and not (actual := weights_digest(path)).startswith(file.sha256):
        return f"it has sha256 {actual}, expected {file.sha256}"
    if file.git_sha1 and (actual := _git_sha1(path)) != file.git_sha1:
        return f"git knows it as {actual}, expected {file.git_sha1}"
    return ""


def _git_sha1(path: Path) -> str:
    """The name that git gives to a content; it tells damage, not forgery."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> dict[str, str]:
    """What is known of an unfinished file: its ``url`` and the server's ``validator``."""
    try:
        state = json.loads(_state_path(part).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _discard_another(part: Path, file: RemoteFile) -> None:
    """Remove an unfinished file that cannot be a part of this one."""
    is_too_long = 0 < file.size_bytes < _size(part)
    if is_too_long or _read_state(part).get("url") != file.url:
        _discard(part)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _validator(headers: Mapping[str, str]) -> str:
    """What tells a server whether a file is still the same: its ETag, unless that is a weak one, or its date."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _is_another(headers: Mapping[str, str], state: Mapping[str, str]) -> bool:
    """Whether a continued answer is that of another file, whatever was asked."""
    before, now = state.get("validator", ""), _validator(headers)
    return bool(before and now and before != now)


def _content_range(value: str) -> tuple[int, int]:
    """First byte and size of the whole from ``bytes 5-9/10`` or ``bytes */10``.

    The first byte is -1, and the size 0, where the server does not say it.
    """
    span, _, total = value.removeprefix("bytes ").partition("/")
    begin = span.partition("-")[0].strip()
    return int(begin) if begin.isdecimal() else -1, int(total) if total.isdecimal() else 0


def _seconds(value: str) -> float:
    """``Retry-After`` in seconds; dates are not obeyed."""
    return float(value) if value.isdigit() else 0.0


def _reason(error: Exception) -> str:
    """A short reason without addresses of redirects, which carry signatures."""
    return str(error) if isinstance(error, _TryAgain) else type(error).__name__


def _way_out(url: str, error: Exception) -> str:
    """What to look at where nobody answers; empty where somebody did."""
    import requests

    if not isinstance(error, requests.ConnectionError | requests.Timeout):
        return ""
    hub = (
        f" HF_ENDPOINT names the hub (now {hub_endpoint()})." if url.startswith(f"{hub_endpoint()}/") else ""
    )
    return f" Nobody answers: check the network.{hub} HTTPS_PROXY names a proxy."


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
