"""Bytes over QUIC and back, by aioquic: `quic.py serve HOST PORT`, and `quic.py ask HOST PORT LENGTH`."""

import asyncio
import datetime
import os
import ssl
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certify(configuration):
    """Gives a server a certificate that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "backend")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    configuration.certificate = builder.sign(key, hashes.SHA256())
    configuration.private_key = key


def echo(reader, writer):
    """Sends all of a stream back once it has ended."""

    async def whole():
        writer.write(await reader.read())
        writer.write_eof()

    asyncio.ensure_future(whole())


async def run_server(host, port):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    certify(configuration)
    await serve(host, port, configuration=configuration, stream_handler=echo)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ask(host, port, length):
    configuration = QuicConfiguration(alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    sent = os.urandom(length)
    async with connect(host, port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(sent)
        writer.write_eof()
        received = await reader.read()
    if received != sent:
        sys.exit(f"{len(received)} of {length} bytes came back, or others")
    print("same")


command, host, port, *rest = sys.argv[1:]
if command == "serve":
    asyncio.run(run_server(host, int(port)))
else:
    asyncio.run(asyncio.wait_for(ask(host, int(port), int(rest[0])), 60))
