"""The driver's own encryption passes through an App: what was encrypted explicitly is decrypted."""

from __future__ import annotations

import os
import uuid

import pytest
from bson import Binary, CodecOptions
from pymongo import MongoClient
from pymongo.encryption_options import AutoEncryptionOpts
from pymongo.synchronous.encryption import Algorithm, ClientEncryption

from earnorm import App, String, models
from tests.core.conftest import definitions


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_values_of_the_drivers_own_encryption_are_read(driver: str) -> None:
    uri, name = os.environ["EARNORM_TEST_MONGO_URI"], f"fle_{uuid.uuid4().hex[:12]}"
    providers = {"local": {"key": os.urandom(96)}}
    vault = f"{name}.__keys"
    options = AutoEncryptionOpts(providers, vault, bypass_auto_encryption=True)
    with definitions(), MongoClient(uri) as client:

        class Patient(models.BaseModel):
            _name = "fle.patient"
            number = String()

        by_hand = ClientEncryption(providers, vault, client, CodecOptions())
        key = by_hand.create_data_key("local")
        random = Algorithm.AEAD_AES_256_CBC_HMAC_SHA_512_Random
        number = by_hand.encrypt("A123", random, key_id=key)
        by_hand.close()
        client[name][Patient._collection].insert_one({"number": number})
        settings = {"auto_encryption_opts": options}
        try:
            async with App(uri, database=name, plugins=[], driver=driver, client_options=settings):
                assert (await Patient.search()).mapped("number") == ["A123"]
            (stored,) = client[name][Patient._collection].find()
            assert isinstance(stored["number"], Binary) and stored["number"].subtype == 6
        finally:
            client.drop_database(name)
