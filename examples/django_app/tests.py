"""The help desk's own tests: ``python -m django test examples.django_app.tests``."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.test import AsyncClient, Client, TestCase

import earnorm
import earnorm.sync
from earnorm.integrations.django import close_app, get_app
from examples.django_app.desk import Ticket


class Desk(TestCase):
    """Users are Django's, in the transaction of each test; tickets are dropped at the end."""

    ids: ClassVar[dict[str, str]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        """Make the tests' own database in MongoDB."""
        settings.EARNORM["database"] = f"example_{uuid.uuid4().hex[:12]}"
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        """Drop it."""
        app = get_app()
        driver = app.dangerous_raw("the tests are over").client
        earnorm.sync.run(driver.drop_database, app.settings.database)
        close_app()
        super().tearDownClass()

    @classmethod
    def setUpTestData(cls) -> None:
        """Make the users."""
        for name, role in (("ann", "customer"), ("bob", "customer"), ("eve", "agent")):
            user = User.objects.create_user(name, password=name)
            user.groups.add(Group.objects.get_or_create(name=role)[0])
            cls.ids[name] = str(user.pk)

    def setUp(self) -> None:
        """Begin without tickets."""
        with get_app().activate(), earnorm.system(reason="a test begins"):
            earnorm.sync.run(Ticket.search().delete())

    def signed_in(self, name: str) -> Client:
        """Return a client of a user."""
        client = Client()
        client.force_login(User.objects.get(username=name))
        return client

    def test_tickets(self) -> None:
        """Customers have their own, agents change them, and the trail says who did."""
        self.assertEqual(Client().get("/tickets").status_code, 403)
        ann, bob, eve = (self.signed_in(name) for name in ("ann", "bob", "eve"))
        made = ann.post("/tickets", {"title": "Lamp"}, content_type="application/json")
        self.assertEqual((made.status_code, made.json()["owner"]), (201, self.ids["ann"]))
        path = f"/tickets/{made.json()['id']}"
        self.assertEqual(bob.get(path).status_code, 404)
        self.assertEqual(titles(bob.get("/tickets").json()), [])
        self.assertEqual(titles(eve.get("/tickets?order=title").json()), ["Lamp"])
        change: dict[str, Any] = {"data": {"state": "done"}, "content_type": "application/json"}
        self.assertEqual(ann.patch(path, **change).status_code, 403)
        self.assertEqual(eve.patch(path, **change).json()["state"], "done")
        self.assertEqual(ann.get(path).json()["state"], "done")
        entries = eve.get(f"{path}/history").json()["entries"]
        self.assertEqual([e["by"] for e in entries], [self.ids["ann"], self.ids["eve"]])
        self.assertEqual(eve.get("/titles").content, b"Lamp\n")
        self.assertEqual(bob.get("/titles").content, b"")
        self.assertEqual(eve.delete(path).status_code, 204)
        self.assertEqual(ann.get(path).status_code, 404)

    def test_mistakes(self) -> None:
        """What a client does wrong is answered with its place."""
        ann = self.signed_in("ann")
        refused = ann.post("/tickets", {"title": "", "prio": 1}, content_type="application/json")
        self.assertEqual(refused.status_code, 422)
        self.assertEqual({e["loc"][-1] for e in refused.json()["errors"]}, {"title", "prio"})
        for body in ("[1]", "{", ""):
            refused = ann.post("/tickets", body, content_type="application/json")
            self.assertEqual(refused.status_code, 422)
        self.assertEqual(ann.get("/tickets?order=secret").status_code, 422)
        self.assertEqual(ann.get("/tickets/nonsense").status_code, 404)

    def test_sign_in_and_health(self) -> None:
        """The password counts; the pool's page is there."""
        client = Client()
        for password, status in (("wrong", 401), ("ann", 200)):
            sent = {"name": "ann", "password": password}
            answer = client.post("/sign-in", sent, content_type="application/json")
            self.assertEqual(answer.status_code, status)
        self.assertEqual(client.get("/tickets").status_code, 200)
        self.assertEqual(client.get("/health").status_code, 200)
        self.assertEqual(client.get("/pool").json()["pool"]["status"], "healthy")

    async def test_asynchronous_client(self) -> None:
        """Each such test has an event loop of its own, and the App goes on."""
        client = AsyncClient()
        await client.aforce_login(await User.objects.aget(username="ann"))
        sent = {"title": "Chair"}
        made = await client.post("/tickets", sent, content_type="application/json")
        self.assertEqual((made.status_code, made.json()["owner"]), (201, self.ids["ann"]))
        self.assertIn("Chair", (await client.get("/titles")).content.decode())

    async def test_asynchronous_client_again(self) -> None:
        """It does in the next one, on another loop."""
        await self.test_asynchronous_client()


def titles(answer: dict[str, Any]) -> list[str]:
    """Return the titles of a page."""
    return [ticket["title"] for ticket in answer["tickets"]]
