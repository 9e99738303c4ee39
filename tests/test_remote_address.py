"""Addresses as they are typed, and encrypted ones."""

import shutil
import ssl
import subprocess

import pytest
from remote_servers import STREAM_HEAD, ScriptedServer, events, models, says

from coderv2_local import remote
from coderv2_local.prompt.layout import Message
from coderv2_local.remote import RemoteError, TimeLimits
from coderv2_local.remote.address import parse_address
from coderv2_local.sampling.sampler import SamplingOptions
from quant.errors import InputError

SECRET = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("typed", "api", "model"),
    [
        ("http://localhost:8080", "http://localhost:8080/v1", None),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1", None),
        ("HTTPS://Example.ORG/api/v1#org/model-2", "https://example.org/api/v1", "org/model-2"),
        ("http://[::1]:8000#a%20b", "http://[::1]:8000/v1", "a b"),
        ("https://api.deepseek.com/beta", "https://api.deepseek.com/v1", None),
    ],
)
def test_addresses(typed, api, model):
    address = parse_address(typed)
    assert (address.api, address.model) == (api, model)


@pytest.mark.parametrize(
    "typed",
    [
        f"http://user:{SECRET}@host/",
        f"http://{SECRET}@host",
        f"http://host/?key={SECRET}",
        "http://",
        "http:///v1",
        "http://host:99999",
        "http://ho st",
        "http://host\x1b[2J",
        "http://[::1",
        "ftp://host",
        f"http://good.example\\@{SECRET}.example",
    ],
)
def test_addresses_that_are_refused_without_repeating_a_secret(typed):
    with pytest.raises(InputError) as caught:
        parse_address(typed)
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes a certificate, is not installed")
def test_a_certificate_that_nobody_vouches_for(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    answers = {"/v1/models": [models("someone", "m")], "/v1/chat/completions": [STREAM_HEAD, events(says("a")), 20.0]}
    with ScriptedServer(answers).running(context=context) as server:
        address = server.address.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(RemoteError, match=r"certificate of .* is not trusted") as caught:
            remote.open(address, limits=TimeLimits())
        assert "SSL_CERT_FILE" in caught.value.hint
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with remote.open(address, limits=TimeLimits(between_tokens=0.4)) as backend:
            chunks = iter(backend.chat([Message("user", "hi")], SamplingOptions(), 9))
            assert next(chunks) == "a"
            with pytest.raises(RemoteError, match="fallen silent"):
                next(chunks)
