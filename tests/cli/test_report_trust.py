"""The page of `voxelopt report` asks for nothing and runs nothing but its own scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

from reports import Page, change_report


def test_the_page_asks_for_no_other_file(run, out):
    run("report", "out/")
    page = Page("report.html")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    own = "".join(text for text in page.scripts.values() if "NVImage=" not in text)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", own)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", own)


def test_the_browser_may_run_these_scripts_alone(run, out):
    run("report", "out/")
    page = Page("report.html")
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy and "connect-src" not in policy
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    code = [text for name, text in page.scripts.items() if name.isdecimal()]
    assert len(code) == 7
    for text in code:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_names_from_files_stay_text(run, out):
    evil = "</script><script>alert(1)</script>"
    out.rename("a&b <img src=x onerror=alert(1)>")
    Path("names.json").write_text(json.dumps({"6": evil}))
    change_report(Path("a&b <img src=x onerror=alert(1)>"), settings={"features": evil})
    run("report", "a&b <img src=x onerror=alert(1)>", "--label-names", "names.json")
    page = Page("report.html")
    assert "alert(1)</script>" not in page.source and "<img src=x" not in page.source
    assert page.title == "Registration: a&b <img src=x onerror=alert(1)>"
    (case,) = page.data["cases"]
    assert case["name"] == "a&b <img src=x onerror=alert(1)>"
    assert case["labels"]["6"] == evil == case["report"]["settings"]["features"]


def test_the_viewer_is_the_one_that_its_licence_names():
    assets = files("voxelopt_train.html_report") / "assets"
    licence = (assets / "niivue.LICENSE").read_text()
    script = (assets / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() in licence and "BSD 2-Clause" in licence
    assert len(script) < 4e6 and b"</script" not in script.lower()
