"""A manifest's signature fits these bytes and this key only, and keys are read from OpenSSL's files."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from schemas import signatures
from schemas.errors import StartError
from schemas.settings import Settings, SigningSettings

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def trusted_file(path: Path, *keys: Ed25519PrivateKey) -> Path:
    path.write_bytes(b"".join(signatures.public_pem(key.public_key()) for key in keys))
    return path


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_fits_what_was_signed_and_nothing_else(content: bytes, other: bytes) -> None:
    signature = signatures.sign(content, KEY)
    assert signatures.signer_of(signature) == signatures.key_id(KEY.public_key())
    assert signatures.fits(content, signature, KEY.public_key())
    assert signatures.fits(other, signature, KEY.public_key()) == (content == other)
    assert not signatures.fits(content, signature, OTHER.public_key())


@given(st.text(max_size=200))
def test_what_is_no_signature_never_fits(text: str) -> None:
    assert not signatures.fits(b"manifest", text, KEY.public_key())


def test_a_signature_of_a_bare_manifest_does_not_fit() -> None:
    """What the key signs for another purpose is no policy's signature."""
    bare = f"{signatures.key_id(KEY.public_key())}:{KEY.sign(b'manifest').hex()}"
    assert not signatures.fits(b"manifest", bare, KEY.public_key())


def test_several_keys_are_trusted_and_read_again_at_each_use(tmp_path: Path) -> None:
    path = trusted_file(tmp_path / "trusted.pem", KEY, OTHER)
    settings = Settings(data_dir=tmp_path, signing=SigningSettings(trusted_file=path))
    both = {signatures.key_id(key.public_key()) for key in (KEY, OTHER)}
    assert (signatures.trusted_keys(settings) or {}).keys() == both
    trusted_file(path, KEY)
    assert (signatures.trusted_keys(settings) or {}).keys() == {signatures.key_id(KEY.public_key())}


def test_without_files_nothing_is_signed_or_checked(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert signatures.signing_key(settings) is None
    assert signatures.trusted_keys(settings) is None


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"]
)
def test_a_damaged_or_missing_file_of_keys_stops_rather_than_trusts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trusted.pem"
    settings = Settings(
        data_dir=tmp_path, signing=SigningSettings(trusted_file=path, key_file=tmp_path / "key.pem")
    )
    with pytest.raises(StartError):
        signatures.trusted_keys(settings)
    path.write_bytes(content)
    with pytest.raises(StartError):
        signatures.trusted_keys(settings)
    with pytest.raises(StartError, match="openssl"):
        signatures.signing_key(settings)


def test_a_private_key_is_no_trusted_key(tmp_path: Path) -> None:
    path = tmp_path / "trusted.pem"
    path.write_bytes(signatures.private_pem(KEY))
    with pytest.raises(StartError):
        signatures.read_trusted_keys(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_keys_that_openssl_makes_are_read(tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "trusted.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    own = signatures.key_id(signatures.read_signing_key(key).public_key())
    assert list(signatures.read_trusted_keys(public)) == [own]
