"""The web pages in a real headless Chromium, on a real server."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.e2e.serving import Server, serve
from tests.pictures import drawing
from tests.support import required_in_ci

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
HOSTILE = "<img src=x onerror=window.hacked=1>.png"


class Page:
    """A browser on the pages of one server."""

    def __init__(self, browser: webdriver.Chrome, server: Server) -> None:
        self.browser, self.server = browser, server

    def open(self, path: str = "/") -> None:
        self.browser.get(self.server.url + path)

    def until(self, condition: Callable[[], object], what: str) -> None:
        WebDriverWait(self.browser, 30, poll_frequency=0.1).until(lambda _: condition(), what)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Of one moment: what is replaced meanwhile does not matter."""
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
        return [str(text) for text in self.browser.execute_script(script, selector)]

    def search(self, words: str) -> None:
        field = self.one("#text")
        field.clear()
        field.send_keys(words + Keys.ENTER)
        self.until(
            lambda: f"text={words.split(maxsplit=1)[0]}" in self.browser.current_url, "the question in the address"
        )
        self.until(lambda: "by shapes-clip" in self.one("#status").text, "an answer")

    def width(self) -> tuple[int, int]:
        script = "return [document.documentElement.scrollWidth, window.innerWidth]"
        whole, seen = self.browser.execute_script(script)
        return int(whole), int(seen)

    def shot(self, folder: Path, name: str) -> None:
        assert self.browser.save_screenshot(str(folder / name))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        required_in_ci("Chromium is absent: `make browser` installs it")
    server = serve(tmp_path_factory.mktemp("pages"))
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1200,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        server.wait_ready(300)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield Page(browser, server)
        finally:
            browser.quit()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def drawings(page: Page, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Dropped onto the page, each seen to be indexed there."""
    folder = tmp_path_factory.mktemp("drawings")
    files = []
    for colour in ("red", "green", "blue"):
        for shape in ("circle", "square"):
            files.append(folder / f"{colour} {shape}.png")
            files[-1].write_bytes(drawing(colour, shape, size=200))
    page.open()
    page.until(lambda: "No pictures yet" in page.one("#status").text, "an empty page")
    page.one("#files").send_keys("\n".join(map(str, files)))
    page.until(lambda: page.texts("#uploads .good").count("indexed") == len(files), "six uploads")
    return files


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where pictures of the pages go: into the docs when that is asked for (`MODELMORA_SCREENSHOTS`)."""
    import os

    wanted = os.environ.get("MODELMORA_SCREENSHOTS")
    return Path(wanted) if wanted else tmp_path


def test_drawings_are_dropped_and_found_by_words(page: Page, drawings: list[Path], folder: Path) -> None:
    page.open()
    page.search("a red circle")
    assert page.texts("#results .name")[0] == "red circle.png"
    scores = [float(text) for text in page.texts("#results .score")]
    assert scores == sorted(scores, reverse=True)
    page.shot(folder, "search.png")


def test_more_like_this_searches_by_the_picture_and_back_works(page: Page, drawings: list[Path]) -> None:
    page.open()
    page.search("a blue square")
    page.one("#results li:first-child .alike").click()
    page.until(lambda: "id=" in page.browser.current_url and page.texts("#results .name"), "others")
    assert "blue square.png" not in page.texts("#results .name")
    page.browser.back()
    page.until(lambda: page.texts("#results .name")[:1] == ["blue square.png"], "the question before")


def test_a_picture_is_searched_by_another(page: Page, drawings: list[Path], tmp_path: Path) -> None:
    example = tmp_path / "example.png"
    example.write_bytes(drawing("green", "circle", size=150))
    page.open()
    page.one("#like").send_keys(str(example))
    page.until(lambda: page.texts("#results .name")[:1] == ["green circle.png"], "the picture that is like it")
    assert page.one("#examplename").text == "example.png"


def test_hostile_names_and_metadata_are_shown_as_text(page: Page, drawings: list[Path]) -> None:
    told = {"note": "<script>window.hacked=1</script>"}
    files = {"files": (HOSTILE, drawing("purple", "square"), "image/png")}
    form = {"metadata": json.dumps(told), "tags": json.dumps(["<b>bold</b>"])}
    made = httpx.post(f"{page.server.url}/v1/images", files=files, data=form, timeout=60)
    assert made.status_code == 201
    page.open()
    page.search("a purple square")
    shown = page.texts("#results .name")[0]
    assert "onerror" in shown
    assert page.texts("#results .tag")[0] == "<b>bold</b>"
    page.one("#results li:first-child .open").click()
    page.until(lambda: page.one("#shown").is_displayed(), "the dialog")
    assert told["note"] in page.texts("#said dd")
    assert page.browser.execute_script("return window.hacked") is None
    page.one("body").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.one("#shown").is_displayed(), "the closed dialog")


def test_everything_is_reached_by_the_keyboard(page: Page, drawings: list[Path]) -> None:
    page.open()
    page.until(lambda: page.texts("#results .name"), "the latest pictures")
    seen = []
    for _ in range(16):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        active = page.browser.switch_to.active_element
        seen.append(active.get_attribute("id") or active.get_attribute("class") or active.text)
    assert "skip" in seen[0]
    for wanted in ("theme", "files", "text", "like", "open", "alike"):
        assert wanted in seen, f"{wanted} is not reached: {seen}"


def test_a_picture_is_found_opened_and_left_by_keys_alone(page: Page, drawings: list[Path]) -> None:
    page.open()
    page.search("a red circle")
    for _ in range(8):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        if page.browser.switch_to.active_element.get_attribute("aria-label") == "Open red circle.png":
            break
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    page.until(lambda: page.one("#shown").is_displayed(), "the dialog")
    inside = "return document.getElementById('shown').contains(document.activeElement)"
    assert page.browser.execute_script(inside)
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    page.until(lambda: not page.one("#shown").is_displayed(), "the closed dialog")
    assert page.browser.switch_to.active_element.get_attribute("aria-label") == "Open red circle.png"


def test_who_likes_it_dark_has_it_dark_until_the_page_is_told(page: Page, drawings: list[Path]) -> None:
    def ground() -> str:
        return page.one("body").value_of_css_property("background-color")

    page.open()
    page.browser.execute_script("localStorage.clear()")
    seen = {}
    try:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            page.open()
            seen[scheme] = ground()
        page.one("#theme").click()
        page.browser.refresh()
        assert ground() == seen["light"] != seen["dark"]
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.browser.execute_script("localStorage.clear()")


def test_it_is_readable_on_a_phone_in_light_and_dark(page: Page, drawings: list[Path], folder: Path) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        for path in ("/", "/models"):
            page.open(path)
            page.until(lambda: page.texts("main li"), "something to see")
            whole, seen = page.width()
            assert whole <= seen, f"{path} is {whole} pixels wide on a screen of {seen}"
        page.open()
        page.search("a red circle")
        before = page.one("body").value_of_css_property("background-color")
        page.one("#theme").click()
        assert page.one("body").value_of_css_property("background-color") != before
        page.shot(folder, "phone.png")
        page.one("#theme").click()
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_refusal_is_told_and_a_picture_can_be_deleted(page: Page, drawings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no picture.png").write_text("plain text")
    page.open()
    page.one("#files").send_keys(str(tmp_path / "no picture.png"))
    page.until(lambda: page.texts("#uploads .bad"), "the refusal")
    assert "not a picture" in page.texts("#uploads .bad")[0]
    (tmp_path / "gone.png").write_bytes(drawing("black", "circle", size=33))
    page.one("#files").send_keys(str(tmp_path / "gone.png"))
    page.until(lambda: "indexed" in page.texts("#uploads .good"), "the upload")
    page.search("a black circle")
    assert page.texts("#results .name")[0] == "gone.png"
    page.one("#results li:first-child .open").click()
    page.until(lambda: page.one("#shown").is_displayed(), "the dialog")
    page.one("#remove").click()
    page.browser.switch_to.alert.accept()
    page.until(lambda: page.texts("#results .name") and "gone.png" not in page.texts("#results .name"), "the removal")


def drop(page: Page, selector: str, name: str, data: bytes) -> None:
    """A file, let go of over an element, as a browser tells it."""
    script = """
      const bytes = Uint8Array.from(atob(arguments[2]), letter => letter.charCodeAt(0));
      const carried = new DataTransfer();
      carried.items.add(new File([bytes], arguments[1], { type: "image/png" }));
      for (const kind of ["dragover", "drop"]) {
        const told = { dataTransfer: carried, bubbles: true, cancelable: true };
        document.querySelector(arguments[0]).dispatchEvent(new DragEvent(kind, told));
      }
    """
    page.browser.execute_script(script, selector, name, base64.b64encode(data).decode())


def test_pictures_are_dropped_anywhere_with_their_tags_and_found_by_them(page: Page, drawings: list[Path]) -> None:
    page.open()
    page.one("#newtags").send_keys("dropped, <i>odd</i>")
    drop(page, "main", "dropped.png", drawing("orange", "circle", size=64))
    page.until(lambda: "indexed" in page.texts("#uploads .good"), "the upload")
    page.one("#more summary").click()
    page.one("#tags").send_keys("dropped")
    page.search("an orange circle")
    assert page.texts("#results .name") == ["dropped.png"]
    assert page.texts("#results .tag") == ["dropped", "<i>odd</i>"]
    assert "tags=dropped" in page.browser.current_url
    page.browser.refresh()
    page.until(lambda: page.texts("#results .name") == ["dropped.png"], "the same question after a reload")
    assert page.one("#tags").get_attribute("value") == "dropped"


def test_a_picture_that_is_dropped_on_the_search_field_is_searched_for(page: Page, drawings: list[Path]) -> None:
    page.open()
    drop(page, "#text", "wanted.png", drawing("blue", "square", size=90))
    page.until(lambda: page.texts("#results .name")[:1] == ["blue square.png"], "the picture that is like it")
    assert page.one("#examplename").text == "wanted.png"
    assert page.texts("#uploads li") == []


def test_one_that_is_known_is_said_to_be(page: Page, drawings: list[Path]) -> None:
    page.open()
    page.one("#files").send_keys(str(drawings[0]))
    page.until(lambda: page.texts("#uploads .good") == ["known already"], "the answer")


def test_metadata_cannot_pass_for_what_is_known_of_a_picture(page: Page, drawings: list[Path]) -> None:
    files = {"files": ("odd.png", drawing("cyan", "square", size=70), "image/png")}
    told = {"metadata": json.dumps({"State": "deleted", "__proto__": "x"})}
    made = httpx.post(f"{page.server.url}/v1/images", files=files, data=told, timeout=60)
    assert made.status_code == 201
    page.open()
    page.until(lambda: "odd.png" in page.texts("#results .name"), "the latest pictures")
    page.one('[aria-label="Open odd.png"]').click()
    page.until(lambda: page.one("#shown").is_displayed(), "the dialog")
    assert page.texts("#facts dd")[0] == "indexed"
    assert set(page.texts("#said dd")) == {"deleted", "x"}


def test_more_results_come_page_by_page(page: Page, drawings: list[Path]) -> None:
    files = [("files", (f"grey {n}.png", drawing("grey", "circle", size=40 + n), "image/png")) for n in range(30)]
    answer = httpx.post(f"{page.server.url}/v1/images", files=files, data={"collection": "many"}, timeout=120)
    assert answer.status_code == 200
    page.open("/?collection=many&text=circle")
    page.until(lambda: len(page.texts("#results li")) == 24, "the first page")
    page.one("#next").click()
    page.until(lambda: len(page.texts("#results li")) == 30, "the second page")
    assert not page.one("#next").is_displayed()
    assert len(set(page.texts("#results .name"))) == 30


def test_what_is_wrong_with_a_question_is_told(page: Page, drawings: list[Path]) -> None:
    page.open("/?text=red&model=absent")
    page.until(lambda: page.texts("#status.bad"), "the refusal")
    assert "absent" in page.texts("#status.bad")[0]


def test_models_are_listed_loaded_and_unloaded(page: Page, folder: Path) -> None:
    page.open("/models")
    page.until(lambda: page.texts("#models li"), "the models")
    assert page.texts("#models .tag").count("default") >= 1
    page.shot(folder, "models.png")
    page.one('[data-act="unload shapes-sam@1.0.0"], [data-act="load shapes-sam@1.0.0"]')
    if page.browser.find_elements(By.CSS_SELECTOR, '[data-act="unload shapes-sam@1.0.0"]'):
        page.one('[data-act="unload shapes-sam@1.0.0"]').click()
        page.until(lambda: page.one('[data-act="load shapes-sam@1.0.0"]').is_enabled(), "an unloaded model")
    page.one('[data-act="load shapes-sam@1.0.0"]').click()
    page.until(
        lambda: page.browser.find_elements(By.CSS_SELECTOR, '[data-act="unload shapes-sam@1.0.0"]:enabled'),
        "a loaded model",
    )


def test_nothing_is_brought_from_elsewhere_and_nothing_is_complained_of(page: Page, drawings: list[Path]) -> None:
    page.browser.get_log("browser")  # type: ignore[no-untyped-call] # what was before
    for path in ("/", "/models"):
        page.open(path)
        page.until(lambda: page.texts("main li"), "something to see")
        script = "return performance.getEntriesByType('resource').map(each => each.name)"
        asked = page.browser.execute_script(script)
        assert asked
        assert all(name.startswith(page.server.url) for name in asked)
    worst = [line for line in page.browser.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert worst == []
