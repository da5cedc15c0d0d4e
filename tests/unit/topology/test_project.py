from __future__ import annotations

from pathlib import Path

import pytest

from netd.errors import Invalid
from netd.topology.project import load
from tests.unit.topology.paper import project

SHOP = """\
name: shop
services:
  web: {depends_on: [app], networks: [front]}
  app: {depends_on: {db: {condition: service_healthy}}, networks: [front, back]}
  db: {networks: [back], volumes: [data:/data], profiles: [full]}
networks: {front: , back: }
volumes: {data: , unused: }
"""


def test_what_others_depend_on_comes_first() -> None:
    found = project(SHOP, profiles=["full"])
    assert list(found.services) == ["db", "app", "web"]
    levels = [each.request.labels["netd.topology.level"] for each in found.containers]
    assert levels == ["0", "1", "2"]
    assert found.volumes == {"data": "/state/volumes/shop_data"}


def test_a_required_service_of_another_profile_is_missed() -> None:
    with pytest.raises(Invalid, match=r"services\.app\.depends_on: service 'db' is not defined"):
        project(SHOP)


def test_a_circle_is_named() -> None:
    text = "services: {a: {depends_on: [b]}, b: {depends_on: [c]}, c: {depends_on: [b]}}"
    with pytest.raises(Invalid, match="b -> c -> b is a circle"):
        project(text)


def test_the_default_network_exists_only_if_somebody_uses_it() -> None:
    assert list(project("services: {a: {}}").networks) == ["default"]
    assert list(project("services: {a: {network_mode: none}}").networks) == []
    assert list(project("services: {a: {networks: [n]}}\nnetworks: {n: }").networks) == ["n"]


def test_two_projects_of_one_file_share_nothing() -> None:
    def names(title: str) -> set[str]:
        whole = project(SHOP, project=title, profiles=["full"])
        networks = [each.name for each in whole.networks.values()]
        return {*networks, *whole.volumes.values(), *(each.name for each in whole.containers)}

    assert len(names("one")) == 6
    assert not names("one") & names("two")


def test_containers_are_found_by_service_number_and_name() -> None:
    found = project("name: p\nservices: {web: {scale: 2}}")
    assert found.container("web") is found.container("web-1") is found.container("p-web-1")
    assert found.container("web-2").number == 2
    with pytest.raises(Invalid, match="'db' is neither"):
        found.container("db")


def test_unimplemented_keys_are_refused_or_with_lenient_warned_of() -> None:
    text = "services: {a: {privileged: true, restart: always}}"
    with pytest.raises(Invalid, match=r"t\.yaml: .*services\.a\.privileged; services\.a\.restart: 'always'"):
        project(text)
    warnings = project(text, lenient=True).warnings
    assert len(warnings) == 2
    assert "services.a.privileged" in warnings[0]


def test_unset_variables_are_warned_of() -> None:
    assert "variable NAME is not set" in project("services: {a: {hostname: $NAME}}").warnings[0]


@pytest.mark.parametrize("name", ["Shop", "-x", "a b", "x" * 32])
def test_a_project_name_that_cannot_be(name: str) -> None:
    with pytest.raises(Invalid, match="project name"):
        project(SHOP, project=name)


def test_two_containers_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match=r"services\.b: 'a' has a container 'x'"):
        project("services: {a: {container_name: x}, b: {container_name: x}}")


def test_a_file_is_named_by_itself_or_by_its_directory(tmp_path: Path) -> None:
    for name, title in (
        ("three-tier.yaml", "three-tier"),
        ("My_Lab.yml", "my_lab"),
        ("compose.yaml", "myapp"),
    ):
        path = tmp_path / "My App" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("services: {a: {}}")
        assert load(path, variables={}).name == title


def test_variables_come_from_a_dotenv_and_the_caller_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    (tmp_path / "t.yaml").write_text("services: {a: {hostname: '$A-$B'}}")
    found = load(tmp_path / "t.yaml", variables={"A": "caller"})
    assert found.container("a").request.hostname == "caller-file"


def test_text_can_be_given_instead_of_a_file() -> None:
    assert load("name: p\nservices: {a: {}}\n", variables={}).container("a").name == "p-a-1"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none\.yaml cannot be read: No such file"):
        load(tmp_path / "none.yaml")
