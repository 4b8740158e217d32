"""Downloads from a server in this process: interrupted, redirected, wrong; and hostile archives."""

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from regnet_lib.data import BadInputError, open_dataset, write_fake_hippocampus
from regnet_lib.data.archives import unpack
from regnet_lib.data.catalogue import CATALOGUE, Archive, Entry
from regnet_lib.data.fetch import download, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT in ways that are named by the path; remembers what was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.files = {"good": CONTENT, "other": CONTENT[::-1]}
        self.drops = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path, asked = self.path.strip("/"), self.headers.get("Range")
        self.server.asked.append((path, asked))
        if path in ("moved", "elsewhere"):
            place = {"moved": self.server.url("good"), "elsewhere": "http://example.com/x"}[path]
            self.answer(302, {"Location": place}, b"")
        elif path == "page":
            self.answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")
        elif path == "disguised":
            self.answer(200, {}, b"<!DOCTYPE html><html>gone</html>")
        elif path == "absent":
            self.answer(404, {}, b"")
        elif path == "drops":
            self.drop(asked)
        elif path == "forgetful":  # knows no ranges
            self.answer(200, {}, CONTENT)
        else:
            content = self.server.files[path]
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if first >= len(content):
                self.answer(416, {}, b"")
            elif first:
                where = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self.answer(206, {"Content-Range": where}, content[first:])
            else:
                self.answer(200, {}, content)

    def drop(self, asked):
        """Announces everything, sends 100,000 bytes and hangs up."""
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        if first:
            where = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
            self.send_header("Content-Range", where)
        self.end_headers()
        self.wfile.write(CONTENT[first : first + 100_000])
        self.close_connection = True

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(*urls: str, digest: str = SHA256) -> Archive:
    return Archive("file.bin", urls, digest, "this test")


class TestDownload:
    def test_whole(self, server, tmp_path):
        path = download(archive(server.url("good")), tmp_path)
        assert path.read_bytes() == CONTENT
        assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]

    def test_a_second_call_asks_nobody(self, server, tmp_path):
        for _ in range(2):
            download(archive(server.url("good")), tmp_path)
        assert len(server.asked) == 1

    def test_resumes_where_it_stopped(self, server, tmp_path):
        (tmp_path / "file.bin.partial").write_bytes(CONTENT[:120_000])
        path = download(archive(server.url("good")), tmp_path)
        assert path.read_bytes() == CONTENT
        assert server.asked == [("good", "bytes=120000-")]

    def test_a_dropping_connection_is_continued(self, server, tmp_path):
        assert download(archive(server.url("drops")), tmp_path).read_bytes() == CONTENT
        assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=200000-"]

    def test_truncated_for_good_keeps_what_arrived(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr("regnet_lib.data.fetch.TRIES", 2)
        with pytest.raises(BadInputError, match="connection ended after 200000"):
            download(archive(server.url("drops")), tmp_path)
        assert not (tmp_path / "file.bin").exists()
        assert (tmp_path / "file.bin.partial").stat().st_size == 200_000

    def test_a_server_that_cannot_continue(self, server, tmp_path):
        (tmp_path / "file.bin.partial").write_bytes(b"old" * 1000)
        assert download(archive(server.url("forgetful")), tmp_path).read_bytes() == CONTENT

    def test_a_complete_partial_file(self, server, tmp_path):
        (tmp_path / "file.bin.partial").write_bytes(CONTENT)
        assert download(archive(server.url("good")), tmp_path).read_bytes() == CONTENT

    def test_two_halves_of_two_files(self, server, tmp_path):
        (tmp_path / "file.bin.partial").write_bytes(b"x" * 1000)
        assert download(archive(server.url("good")), tmp_path).read_bytes() == CONTENT
        assert [asked for _, asked in server.asked] == ["bytes=1000-", None]

    def test_redirected(self, server, tmp_path):
        assert download(archive(server.url("moved")), tmp_path).read_bytes() == CONTENT

    def test_redirected_to_an_open_line(self, server, tmp_path):
        with pytest.raises(BadInputError, match="https, was sent to http://example.com"):
            download(archive(server.url("elsewhere")), tmp_path)
        assert len(server.asked) == 1

    def test_another_file(self, server, tmp_path):
        with pytest.raises(BadInputError, match="expected sha256 .* found other content"):
            download(archive(server.url("other")), tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("path", ["page", "disguised"])
    def test_a_web_page(self, server, tmp_path, path):
        with pytest.raises(BadInputError, match="found a web page"):
            download(archive(server.url(path)), tmp_path)
        assert not (tmp_path / "file.bin").exists()

    def test_a_web_page_does_not_cost_what_has_arrived(self, server, tmp_path):
        (tmp_path / "file.bin.partial").write_bytes(CONTENT[:1000])
        with pytest.raises(BadInputError, match="web page"):
            download(archive(server.url("page")), tmp_path)
        assert (tmp_path / "file.bin.partial").read_bytes() == CONTENT[:1000]

    def test_mirrors_in_order(self, server, tmp_path):
        urls = [server.url(path) for path in ("absent", "other", "good")]
        assert download(archive(*urls), tmp_path).read_bytes() == CONTENT
        assert [path for path, _ in server.asked] == ["absent", "other", "good"]

    def test_all_complaints_are_listed(self, server, tmp_path):
        with pytest.raises(BadInputError, match=r"(?s)404.*found other content"):
            download(archive(server.url("absent"), server.url("other")), tmp_path)

    def test_md5_of_an_owner(self, server, tmp_path):
        digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
        download(archive(server.url("good"), digest=digest), tmp_path)


def tar(path, **members: bytes | tarfile.TarInfo):
    with tarfile.open(path, "w") as opened:
        for name, content in members.items():
            add(opened, name, content)
    return path


def add(opened: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    opened.addfile(info, io.BytesIO(content))


HOSTILE_NAMES = ["../escaped", "/escaped", "in/../../escaped", "..\\escaped", "C:\\escaped"]


class TestUnpack:
    def test_tar_and_zip(self, tmp_path):
        tar(tmp_path / "a.tar", **{"folder/one.txt": b"1", "folder/._one.txt": b"junk"})
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("folder/one.txt", b"1")
        for name in ("a.tar", "a.zip"):
            unpack(tmp_path / name, tmp_path / f"{name}.out")
            files = [path for path in (tmp_path / f"{name}.out").rglob("*") if path.is_file()]
            assert [path.read_bytes() for path in files] == [b"1"]

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_members_that_would_escape(self, tmp_path, name, kind):
        inner = tmp_path / "inner"
        inner.mkdir()
        path = inner / f"a.{kind}"
        if kind == "tar":
            tar(path, **{"good.txt": b"1", name: b"bad"})
        else:
            with zipfile.ZipFile(path, "w") as opened:
                opened.writestr("good.txt", b"1")
                opened.writestr(name, b"bad")
        with pytest.raises(BadInputError, match="path out of the folder"):
            unpack(path, inner / "out")
        assert sorted(entry.name for entry in tmp_path.rglob("*")) == [path.name, "inner"]

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_links_and_devices_in_tar(self, tmp_path, kind):
        with tarfile.open(tmp_path / "a.tar", "w") as opened:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
            add(opened, "link/file", b"through the link")
        with pytest.raises(BadInputError, match="'link' is a link or a device"):
            unpack(tmp_path / "a.tar", tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]

    def test_links_in_zip(self, tmp_path):
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
            opened.writestr(info, "/etc/passwd")
        with pytest.raises(BadInputError, match="a link or a device"):
            unpack(tmp_path / "a.zip", tmp_path / "out")

    def test_a_name_that_occurs_twice(self, tmp_path):
        tar(tmp_path / "a.tar", **{"scan.nii": b"1", "SCAN.nii": b"2"})
        with pytest.raises(BadInputError, match="occurs twice"):
            unpack(tmp_path / "a.tar", tmp_path / "out")

    def test_a_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr("regnet_lib.data.archives.ALWAYS_ALLOWED", 1000)
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("zeros", bytes(2_000_000))
        with pytest.raises(BadInputError, match="more than scans can hold"):
            unpack(tmp_path / "a.zip", tmp_path / "out")

    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_truncated(self, tmp_path, kind):
        path = tmp_path / f"a.{kind}"
        if kind == "tar":
            tar(path, one=CONTENT)
        else:
            with zipfile.ZipFile(path, "w") as opened:
                opened.writestr("one", CONTENT)
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(BadInputError, match=r"a\.(tar|zip): "):
            unpack(path, tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_damaged_member(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
            opened.writestr("one", b"0123456789" * 100)
        content = (tmp_path / "a.zip").read_bytes()
        (tmp_path / "a.zip").write_bytes(content.replace(b"0123456789", b"0123456780", 1))
        with pytest.raises(BadInputError, match="cannot be unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_existing_folder_is_left_alone(self, tmp_path):
        tar(tmp_path / "a.tar", one=b"1")
        (tmp_path / "out").mkdir()
        with pytest.raises(BadInputError, match="expected no such folder"):
            unpack(tmp_path / "a.tar", tmp_path / "out")


class TestFetch:
    @pytest.fixture(scope="class")
    def packed(self, tmp_path_factory) -> bytes:
        """The hippocampus set as its owner packs it."""
        folder = tmp_path_factory.mktemp("packed")
        made = write_fake_hippocampus(folder / "made", subjects=4)
        with tarfile.open(folder / "task.tar", "w") as opened:
            opened.add(made, "Task04_Hippocampus")
        return (folder / "task.tar").read_bytes()

    @pytest.fixture
    def task(self, packed, server, tmp_path, monkeypatch):
        """Offers the set on our server, and as a file that one has already."""
        (tmp_path / "Task04.tar").write_bytes(packed)
        server.files["task"] = packed
        digest = "sha256:" + hashlib.sha256(packed).hexdigest()
        old = CATALOGUE["msd_hippocampus"]

        def offer(registration: str = "", urls=(server.url("task"),)) -> Archive:
            offered = Archive("Task04.tar", urls, digest, "this test")
            entry = Entry(
                old.name, old.what, old.used_by, old.origin, old.licence, registration, old.cases,
                (offered,), ("ask somebody",),
            )  # fmt: skip
            monkeypatch.setitem(CATALOGUE, "msd_hippocampus", entry)
            return offered

        offer()
        return offer

    def test_end_to_end(self, task, tmp_path):
        folder = fetch("msd_hippocampus", tmp_path / "data")
        dataset = open_dataset("msd_hippocampus", folder)
        assert dataset.case(dataset.ids("train")[0]).shape == (48, 64, 48)
        assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["msd_hippocampus"]

    def test_terms_are_accepted_first(self, task, server, tmp_path):
        task(registration="agree to the terms")
        with pytest.raises(BadInputError, match="agree to the terms"):
            fetch("msd_hippocampus", tmp_path / "data")
        assert server.asked == []
        fetch("msd_hippocampus", tmp_path / "data", accept_terms=True)

    def test_what_is_there_stays(self, task, server, tmp_path):
        mine = tmp_path / "data" / "msd_hippocampus" / "mine.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(BadInputError, match="expected no such folder"):
            fetch("msd_hippocampus", tmp_path / "data")
        assert mine.read_text() == "mine" and server.asked == []

    def test_archives_on_request(self, task, server, tmp_path):
        task(urls=())
        with pytest.raises(BadInputError, match="cannot be downloaded"):
            fetch("msd_hippocampus", tmp_path / "data")
        folder = fetch("msd_hippocampus", tmp_path / "data", archives=tmp_path)
        assert (folder / "imagesTr").is_dir() and (tmp_path / "Task04.tar").exists()

    def test_a_wrong_archive_of_your_own(self, task, tmp_path):
        (tmp_path / "Task04.tar").write_bytes(b"something")
        with pytest.raises(BadInputError, match="found other content"):
            fetch("msd_hippocampus", tmp_path / "data", archives=tmp_path)
        assert not (tmp_path / "data" / "msd_hippocampus").exists()

    def test_an_archive_of_something_else(self, task, tmp_path, server, monkeypatch):
        tar(tmp_path / "else.tar", readme=b"1")
        content = (tmp_path / "else.tar").read_bytes()
        server.files["task"] = content
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        object.__setattr__(CATALOGUE["msd_hippocampus"].archives[0], "digest", digest)
        with pytest.raises(BadInputError, match="expected one of .* in the archive, found readme"):
            fetch("msd_hippocampus", tmp_path / "data")
        assert not (tmp_path / "data" / "msd_hippocampus").exists()
