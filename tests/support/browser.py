"""A real browser without a window: headless Chromium, spoken to through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser; None where none is installed."""
_PATIENCE = 60
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


@dataclass
class Page:
    """One page: what it said on the console, and which addresses it asked for."""

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def show(self, path: Path, width: int, scheme: str) -> None:
        """Load a file in a window of that width, in "light" or "dark"."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.browser.page = self
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 640}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.browser.wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """The process; messages are JSON that ends with a zero byte, in pipes 3 and 4."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._number, self._rest = reading, writing, 0, b""
        self._met: set[str] = set()
        self.page: Page | None = None

    def open(self) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def wait_for(self, event: str) -> None:
        while event not in self._met:
            self._next()
        self._met.clear()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._reading], [], [], _PATIENCE)[0], "the browser does not answer"
            read = os.read(self._reading, 1 << 20)
            assert read, "the browser has gone"
            self._rest += read
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, told: dict[str, Any]) -> None:
        self._met.add(event)
        if self.page is None:
            return
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.page.complaints.append(json.dumps(told))
        if event == "Network.requestWillBeSent":
            self.page.requests.append(told["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium for a while, with a folder of its own for its profile."""
    assert CHROMIUM is not None
    (to_read, its_write), (its_read, to_write) = os.pipe(), os.pipe()

    def as_three_and_four() -> None:
        first, second = os.dup(its_read), os.dup(its_write)
        os.dup2(first, 3)
        os.dup2(second, 4)

    command = [CHROMIUM, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=as_three_and_four, pass_fds=(3, 4, its_read, its_write), **quiet)
    os.close(its_read)
    os.close(its_write)
    started = Browser(to_read, to_write)
    try:
        yield started
        started.call("Browser.close")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(to_read)
        os.close(to_write)
