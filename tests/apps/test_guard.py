"""Who may come in, and what: paths, other sites, long requests, the token. The model obeys its prompt."""

import json
import socket

import pytest

ASK = {"task": "estimate", "modalities": ["depth"], "input": "people", "steps": 2}


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/{id}/files/depth/../../web.sqlite",
        "/api/jobs/{id}/files/depth/..%2f..%2f..%2fweb.sqlite",
        "/api/jobs/{id}/files/depth//etc/passwd",
        "/api/jobs/{id}/files/depth/%2Fetc%2Fpasswd",
        "/api/jobs/..%2F..%2F{id}",
        "/api/inputs/..%2f..%2fweb.sqlite/video",
        "/api/inputs/people/video?view=..%2F..%2Fx",
        "/static/../serve.py",
        "/static/..%2fserve.py",
        "/static/%2Fetc%2Fpasswd",
    ],
)
def test_no_name_becomes_a_path(client, done, path):
    host, port = client.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        # as written: a client's library would tidy it up
        line.sendall(
            f"GET {path.format(id=done['id'])} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = line.makefile("rb").read()
    assert answer.split()[1] in (b"400", b"404", b"422")


@pytest.mark.parametrize(
    "headers, method",
    [
        ({"host": "evil.example"}, "GET"),
        ({"origin": "http://evil.example"}, "POST"),
        ({"origin": "null"}, "POST"),
        ({"origin": "http://127.0.0.1:1"}, "POST"),
        ({"sec_fetch_site": "cross-site"}, "POST"),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, "GET"),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, "GET"),
    ],
)
def test_other_sites_are_refused(client, headers, method):
    body = json.dumps(ASK).encode() if method == "POST" else None
    code, _ = client.refused("/api/jobs", body, method, content_type="application/json", **headers)
    assert code == 403


def test_long_requests_are_refused_unread(client):
    host, port = client.address.removeprefix("http://").split(":")
    for line in ("Content-Length: 2000000", "Transfer-Encoding: chunked"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode())
            assert connection.recv(1 << 16).split()[1] == b"413"


def test_security_headers_are_on_everything(client):
    for path in ("/", "/api/options", "/static/style.css", "/openapi.json"):
        with client.open(path) as answer:
            headers, text = answer.headers, answer.read().decode()
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        # nothing is asked of another host
        assert "https://" not in text and "http://" not in text


def test_the_token_opens_the_page(serve_stub, tmp_path):
    with serve_stub(tmp_path, token="a secret") as client:
        assert client.refused("/")[0] == client.refused("/api/jobs")[0] == 401
        assert client.refused("/?token=a%20guess")[0] == 401
        assert client.refused("/api/jobs", authorization="Bearer guess")[0] == 401
        with client.open("/api/jobs", authorization="Bearer a secret", host="elsewhere.example") as answer:
            assert json.load(answer) == []
        host, port = client.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            line.sendall(b"GET /compare?token=a%20secret&a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = line.makefile("rb").read().decode().lower()
        assert "303" in answer.splitlines()[0] and "location: /compare?a=1\r\n" in answer
        assert "httponly" in answer
        cookie = answer.partition("set-cookie: ")[2].partition(";")[0].replace("unity-token", "unity-token")
        with client.open("/api/jobs", cookie=cookie) as answer:
            assert json.load(answer) == []
