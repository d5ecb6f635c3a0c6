from __future__ import annotations

import http.server
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eoflow.errors import BadInput
from eoflow.sources.base import AssetCorrupt, AssetTransient
from eoflow.sources.signing import MARGIN_S, S3, PlanetaryComputer, fetch_json

BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/06/V/VN/B04.tif"


class TokenServer:
    """Answers `/token/ACCOUNT/CONTAINER` with token number n; `answers` are (status, body) to give first."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.answers: list[tuple[int, str, dict[str, str]]] = []
        self.expiry = "2030-01-01T01:00:00Z"
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.paths.append(self.path)
                outer.keys.append(self.headers.get("Ocp-Apim-Subscription-Key"))
                status, headers = 200, {}
                body = json.dumps({"token": f"sig=T{len(outer.paths)}", "msft:expiry": outer.expiry})
                if outer.answers:
                    status, body, headers = outer.answers.pop(0)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> TokenServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def tokens():
    with TokenServer() as server:
        yield server


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


END = 1893459600.0  # 2030-01-01T01:00:00Z


def test_a_token_a_container_kept_until_shortly_before_it_expires(tokens):
    clock = Clock(END - 3600)
    pc = PlanetaryComputer(f"{tokens.url}/token", clock=clock)
    assert pc.sign(BLOB) == f"{BLOB}?sig=T1"
    assert pc.sign(BLOB.replace("B04", "B03") + "?sig=OLD").endswith("B03.tif?sig=T1")
    assert tokens.paths == ["/token/sentinel2l2a01/sentinel2-l2"]
    assert pc.sign(BLOB.replace("sentinel2-l2/", "other/")).endswith("sig=T2")
    clock.now = END - MARGIN_S - 1
    assert pc.sign(BLOB).endswith("sig=T1")
    clock.now = END - MARGIN_S
    assert pc.sign(BLOB).endswith("sig=T3")


def test_other_hosts_get_no_token(tokens):
    pc = PlanetaryComputer(f"{tokens.url}/token", ("127.0.0.1:9",))
    for url in ("https://evil.example/sentinel2-l2/B04.tif", "https://blob.core.windows.net.evil.example/c/x.tif",
                "https://a.blob.core.windows.net/", "http://127.0.0.1:10/c/x.tif"):  # fmt: skip
        assert pc.sign(url) == url
        assert not pc.signs(url)
    assert tokens.paths == []
    assert pc.sign("http://127.0.0.1:9/c/x.tif").endswith("?sig=T1")
    assert tokens.paths == ["/token/127.0.0.1/c"]


def test_renewed_once_however_many_threads_were_refused(tokens):
    pc = PlanetaryComputer(f"{tokens.url}/token", clock=Clock(END - 3600))
    ready = threading.Barrier(8)

    def read(_: int) -> tuple[str, str]:
        first = pc.sign(BLOB)
        ready.wait()  # all hold the refused token
        pc.renew(BLOB)
        return first, pc.sign(BLOB)

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(read, range(8)))
    assert seen == {(f"{BLOB}?sig=T1", f"{BLOB}?sig=T2")}
    assert len(tokens.paths) == 2


def test_pickled_without_tokens(tokens):
    pc = PlanetaryComputer(f"{tokens.url}/token", clock=Clock(END - 3600))
    pc.sign(BLOB)
    frozen = pickle.dumps(pc)
    assert b"T1" not in frozen
    assert pickle.loads(frozen).sign(BLOB).endswith("sig=T2")


def test_a_subscription_key_goes_to_https_only(tokens, monkeypatch):
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "SECRETKEY")
    PlanetaryComputer(f"{tokens.url}/token", clock=Clock(END - 3600)).sign(BLOB)
    assert tokens.keys == [None]


def test_transient_answers_are_tried_again(tokens):
    pauses: list[float] = []
    tokens.answers = [(503, "", {}), (429, "", {})]
    pc = PlanetaryComputer(f"{tokens.url}/token", clock=Clock(END - 3600), sleep=pauses.append)
    assert pc.sign(BLOB).endswith("sig=T3")
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((404, "", {}), BadInput, "HTTP 404"),
        ((200, "<html>", {}), BadInput, "JSON"),
        ((200, "{}", {}), AssetCorrupt, "no token"),
        ((200, '{"token": "sig=a", "msft:expiry": "soon"}', {}), AssetCorrupt, "no token"),
        ((302, "", {"Location": "http://localhost:1/steal"}), BadInput, "another host"),
    ],
)
def test_nonsense_is_refused(tokens, answer, error, said):
    tokens.answers = [answer]
    with pytest.raises(error, match=said):
        PlanetaryComputer(f"{tokens.url}/token", sleep=lambda _: None).sign(BLOB)


def test_no_connection_is_transient():
    pc = PlanetaryComputer("http://127.0.0.1:9/token", sleep=lambda _: None)
    with pytest.raises(AssetTransient, match="cannot be reached"):
        pc.sign(BLOB)


def test_fetch_json_follows_where_check_agrees(tokens):
    tokens.answers = [(302, "", {"Location": f"{tokens.url}/there"}), (200, "[1]", {})]
    assert fetch_json(f"{tokens.url}/here", check=lambda url: None) == [1]


def test_s3_is_signed_with_the_credentials_of_the_environment(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="aws_no_sign_request"):
        S3(region="us-west-2").url("bucket", "a.tif")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    url = S3(region="us-west-2").url("bucket", "a.tif")
    assert url.startswith("https://bucket.s3.us-west-2.amazonaws.com/a.tif?")
    assert "X-Amz-Signature=" in url
    assert "X-Amz-SignedHeaders=host&" in url  # a reader sends no other
    assert "SECRET" not in url
    s3 = S3(endpoint="http://127.0.0.1:9000")
    assert s3.url("bucket", "a.tif").startswith("http://127.0.0.1:9000/bucket/a.tif?")
    assert pickle.loads(pickle.dumps(s3)).endpoint == s3.endpoint
