"""The files that people expect in a repository: they are valid, and they say what is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import unmask

ROOT = Path(__file__).parents[1]
FORMS = sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def settings() -> dict[str, Any]:
    """What pyproject.toml says of the package."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def loaded(path: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text("utf-8"))


def test_the_citation_has_what_the_format_requires() -> None:
    citation = loaded("CITATION.cff")
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version", "license", "type"}
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert str(citation["version"]) == unmask.__version__
    assert citation["license"] == settings()["license"]
    assert citation["authors"] == [{"name": "The unmask developers"}]
    for paper in citation["references"]:
        assert paper.keys() >= {"type", "title", "authors", "year"}, paper
        assert "doi" in paper or re.fullmatch(r"arXiv:\d{4}\.\d{5}", paper["identifiers"][0]["value"]), paper
        assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"]), paper


def test_the_papers_that_are_cited_are_those_that_the_code_follows() -> None:
    code = "".join(path.read_text("utf-8") for root in ("engine", "kernels") for path in (ROOT / root).rglob("*.py"))
    for paper in loaded("CITATION.cff")["references"]:
        author, year = paper["authors"][0]["family-names"], paper["year"]
        number = next((one["value"] for one in paper.get("identifiers", ())), "\0")
        assert number in code or re.search(rf"{author}( et al\.)?,? (& \w+ )?(SC )?'?{year}", code), paper["title"]


def test_the_hooks_are_local_and_run_what_make_lint_runs() -> None:
    repositories = loaded(".pre-commit-config.yaml")["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    lint = (ROOT / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    run = [" ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2]) for hook in hooks]
    assert run == ["ruff check", "ruff format", "mypy"]
    assert all(f"$(BIN)/{command}" in lint for command in run)


def test_ci_runs_the_script_on_the_oldest_and_the_newest_python() -> None:
    workflow = loaded(".github/workflows/ci.yml")
    assert workflow["on"].keys() >= {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run" and job["timeout-minutes"] > 0
    versions = job["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == settings()["requires-python"]
    policy = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"{versions[0]} to {versions[-1]}" in policy
    named = [one.rpartition(" ")[2] for one in settings()["classifiers"] if re.search(r"Python :: 3\.\d+$", one)]
    assert (named[0], named[-1]) == (versions[0], versions[-1])


@pytest.mark.parametrize("name", FORMS)
def test_a_form_for_issues_has_what_github_requires(name: str) -> None:
    form = loaded(f".github/ISSUE_TEMPLATE/{name}")
    assert form.keys() >= {"name", "description", "body"}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert fields and len({part["id"] for part in fields}) == len(fields)
    for part in fields:
        assert part["type"] in {"textarea", "input", "dropdown", "checkboxes"} and part["attributes"]["label"]


def test_there_are_forms_for_faults_and_for_wishes() -> None:
    assert FORMS == ["bug.yml", "feature.yml"]
    assert (ROOT / ".github/pull_request_template.md").is_file()


def test_versions_in_the_policy_are_those_of_the_package() -> None:
    project = settings()
    rows = dict(
        re.findall(r"^\| \*\*(\w+)\*\* \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    )
    (torch,) = [text for text in project["dependencies"] if text.startswith("torch")]
    (triton,) = [text for text in project["optional-dependencies"]["test"] if text.startswith("triton")]
    assert rows["PyTorch"].startswith(f"{torch.partition('>=')[2]} and newer")
    assert rows["Triton"].startswith(f"{triton.partition('>=')[2].partition(';')[0]} and newer")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/encoder.md", "examples/README.md"]
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", (ROOT / page).read_text("utf-8")):
        path, anchor = target
        if path.startswith("http"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^a-z0-9 _-]", "", one.lower()).replace(" ", "-") for one in titles}, target


def test_no_reader_of_weights_unpickles_code() -> None:
    """What SECURITY.md promises of .bin files."""
    for path in (ROOT / "engine").rglob("*.py"):
        for call in re.findall(r"torch\.load\([^)]*\)", path.read_text("utf-8")):
            assert "weights_only=True" in call, path
