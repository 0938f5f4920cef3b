"""Downloads from a server on this machine that behaves, breaks off, ignores ranges, or sends something else."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archive_server import FOLDER, Server, archive_of, packed, serving

from qkd_deploy.data import load_dataset
from qkd_deploy.data.sets.cifar import CIFAR10, CIFAR100, load_cifar
from qkd_deploy.data.sets.download import cache_folder, fetch
from qkd_deploy.errors import UserError

CONTENT = packed((f"{FOLDER}/a.bin", os.urandom(50_000)), (f"{FOLDER}/deep/b.txt", b"text"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as state:
        monkeypatch.setenv("QKD_DEPLOY_MIRROR", state.address)
        yield state


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    folder = fetch(archive_of(CONTENT), tmp_path)
    assert (folder / "a.bin").stat().st_size == 50_000
    assert (folder / "deep" / "b.txt").read_text() == "text"
    assert fetch(archive_of(CONTENT), tmp_path) == folder
    assert server.asked == [None]
    assert left_in(tmp_path) == {FOLDER, "data.tar.gz"}


def test_an_archive_that_lies_there_is_unpacked_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz").write_bytes(CONTENT)
    assert (fetch(archive_of(CONTENT), tmp_path) / "a.bin").exists()


def test_a_broken_connection_continues_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.content, server.break_after = CONTENT, len(CONTENT) // 3 + 1
    assert (fetch(archive_of(CONTENT), tmp_path) / "a.bin").exists()
    third = server.break_after
    assert server.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_later_process_continues_a_partial_file(server: Server, tmp_path: Path) -> None:
    server.content, server.break_after = CONTENT, 100
    with pytest.raises(UserError, match=r"cannot download .*data\.tar\.gz \(the connection broke off\); try again"):
        fetch(archive_of(CONTENT), tmp_path)
    assert left_in(tmp_path) == {"data.tar.gz.part"}
    got = (tmp_path / "data.tar.gz.part").stat().st_size
    assert got == 500
    server.break_after = None
    fetch(archive_of(CONTENT), tmp_path)
    assert server.asked[-1] == f"bytes={got}-"
    assert left_in(tmp_path) == {FOLDER, "data.tar.gz"}


def test_a_whole_partial_file_is_only_renamed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT)
    assert fetch(archive_of(CONTENT), tmp_path).is_dir()


def test_a_server_that_ignores_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.content, server.ignore_range = CONTENT, True
    (tmp_path / "data.tar.gz.part").write_bytes(b"the beginning of something")
    assert (fetch(archive_of(CONTENT), tmp_path) / "a.bin").exists()


def test_a_wrong_checksum_is_refused_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b"!"
    with pytest.raises(UserError, match=r"another file than the publisher's \(wrong checksum\), which was deleted"):
        fetch(archive_of(CONTENT), tmp_path)
    assert left_in(tmp_path) == set()


def test_the_users_own_wrong_file_is_named_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"data\.tar\.gz has another checksum .*; delete it, or replace it"):
        fetch(archive_of(CONTENT), tmp_path)
    assert left_in(tmp_path) == {"data.tar.gz"}
    assert server.asked == []


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        (f"{FOLDER}/../../evil", b"x"),
        ("/tmp/qkd-deploy-evil", b"x"),
        ("other/evil", b"x"),
        link(f"{FOLDER}/link", "/etc/passwd"),
        link(f"{FOLDER}/link", f"{FOLDER}/a.bin", tarfile.LNKTYPE),
        link(f"{FOLDER}/pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else member.name,
)
def test_dangerous_members_are_refused_and_nothing_is_unpacked(member: Any, server: Server, tmp_path: Path) -> None:
    server.content = packed((f"{FOLDER}/a.bin", b"good"), member)
    target = tmp_path / "target"
    with pytest.raises(UserError, match=r"refused to unpack .*; delete it, and get the publisher's archive"):
        fetch(archive_of(server.content), target)
    assert left_in(target) == {"data.tar.gz"}
    assert left_in(tmp_path) == {"target"}
    assert not Path("/tmp/qkd-deploy-evil").exists()


@pytest.mark.parametrize(  # with names: a gzipped file holds the time, and parallel workers must collect the same tests
    "content",
    [b"no archive at all", CONTENT[:-2000], packed(("x", b""))[:30]],
    ids=["no archive", "cut at the end", "cut in the middle"],
)
def test_damaged_archives_are_explained(content: bytes, server: Server, tmp_path: Path) -> None:
    server.content = content
    with pytest.raises(UserError, match=r"cannot unpack|refused"):
        fetch(archive_of(content), tmp_path)
    assert left_in(tmp_path) == {"data.tar.gz"}


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100"):
        with pytest.raises(
            UserError, match=rf"holds no {name}; cannot download .* refused.*as --data-dir \(data_dir in Python\)$"
        ) as caught:
            load_dataset(name, tmp_path)
        assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == set()


def test_a_missing_file_on_the_server_is_no_reason_to_try_again(tmp_path: Path, server: Server) -> None:
    server.answer = lambda handler: handler.send_error(404)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"cannot download .*\(Not Found\)"):
        fetch(archive_of(CONTENT), tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.*; choose another --data-dir"):
        fetch(archive_of(CONTENT), tmp_path / "file" / "below")


def test_cifar_is_downloaded_into_the_cache_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_layout: Any
) -> None:
    source = write_layout(FOLDER, tmp_path / "source")
    server.content = packed(*((f"{FOLDER}/{path.name}", path.read_bytes()) for path in sorted(source.iterdir())))
    layout = replace(CIFAR10.layouts[0], archive=replace(archive_of(server.content), name="cifar-10-binary.tar.gz"))
    small = replace(CIFAR10, train_images=7, test_images=7, layouts=(layout, *CIFAR10.layouts[1:]))
    monkeypatch.setenv("QKD_DEPLOY_CACHE", str(tmp_path / "cache"))
    first = load_cifar(small, None)
    assert load_cifar(small, None).fingerprint == first.fingerprint == load_cifar(small, source).fingerprint
    assert len(server.asked) == 1


def test_addresses_and_checksums_are_the_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QKD_DEPLOY_MIRROR")
    archives = [layout.archive for family in (CIFAR10, CIFAR100) for layout in family.layouts]
    assert [archive.url for archive in archives] == [
        f"https://www.cs.toronto.edu/~kriz/cifar-{name}.tar.gz"
        for name in ("10-binary", "10-python", "100-binary", "100-python")
    ]
    assert {len(archive.md5) for archive in archives} == {32}


def test_the_cache_follows_the_customs_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("QKD_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "qkd-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qkd-deploy"
    monkeypatch.setenv("QKD_DEPLOY_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
