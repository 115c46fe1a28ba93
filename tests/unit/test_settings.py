"""Settings: where they come from, what they refuse, how they are explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmora.errors import ValidationFailed
from modelmora.settings import Settings, SettingsError


def load(**variables: str) -> Settings:
    return Settings.load({f"MODELMORA_{name}": value for name, value in variables.items()}, env_file=None)


def faults(**variables: str) -> dict[str | None, str]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    return {fault.field: fault.detail for fault in caught.value.faults}


def test_nothing_has_to_be_set() -> None:
    settings = load()
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 3000)
    assert (settings.grpc.host, settings.grpc.port) == ("127.0.0.1", 50051)
    assert settings.http.max_body_bytes == settings.grpc.max_message_bytes == 67_108_864
    assert settings.http.cors_origins == ()
    assert (settings.api.workers, settings.api.decode_threads, settings.api.max_in_flight) == (1, None, 2048)
    assert (settings.limits.items, settings.limits.image_bytes, settings.limits.pixels) == (256, 33_554_432, 50_000_000)
    assert (settings.limits.text_chars, settings.limits.timeout_ms, settings.limits.max_timeout_ms) == (
        2000,
        60_000,
        600_000,
    )
    assert (settings.runner.drain_timeout_s, settings.runner.threads, settings.runner.memory_fraction) == (
        25,
        None,
        0.6,
    )
    assert (settings.log.level, settings.log.format) == ("info", "auto")
    assert settings.allow_anonymous is False


def test_every_setting_can_be_set_by_its_variable() -> None:
    settings = load(
        HTTP_HOST="::1",
        HTTP_PORT="8080",
        HTTP_MAX_BODY_BYTES="1MiB",
        HTTP_CORS_ORIGINS="https://a.example, http://localhost:8000",
        GRPC_PORT="9090",
        API_WORKERS="4",
        API_DECODE_THREADS="2",
        VECTORS_URL="grpc://:key@qdrant:6334",
        EVENTS_URL="kafka://one:9092,two:9092",
        CACHE_URL="redis://cache:6379/0",
        LIMITS_IMAGE_BYTES="1000",
        RUNNER_DRAIN_TIMEOUT_S="0.5",
        RUNNER_MEMORY_FRACTION="1",
        DATABASE_URL="postgresql+asyncpg://me:secret@db:5432/modelmora",
        DATA_DIR="/srv/modelmora",
        REGISTRY="/etc/models.yaml",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="json",
        ALLOW_ANONYMOUS="true",
    )
    assert (settings.http.host, settings.http.port, settings.http.max_body_bytes) == ("::1", 8080, 2**20)
    assert settings.http.cors_origins == ("https://a.example", "http://localhost:8000")
    assert (settings.grpc.port, settings.api.workers, settings.api.decode_threads) == (9090, 4, 2)
    assert (settings.limits.image_bytes, settings.runner.drain_timeout_s, settings.runner.memory_fraction) == (
        1000,
        0.5,
        1,
    )
    assert settings.database.url == "postgresql+asyncpg://me:secret@db:5432/modelmora"
    assert (settings.data_dir, settings.registry) == (Path("/srv/modelmora"), Path("/etc/models.yaml"))
    assert (settings.log.level, settings.log.format, settings.allow_anonymous) == ("debug", "json", True)


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load(HTTP_PORT="", API_DECODE_THREADS="").http.port == 3000


def test_settings_never_change() -> None:
    settings = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.http.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.allow_anonymous = True


def test_the_database_stands_in_the_data_folder_unless_told_otherwise() -> None:
    assert load(DATA_DIR="/srv/my data").database.url == "sqlite+aiosqlite:////srv/my data/modelmora.db"
    url = "sqlite+aiosqlite:////var/x.db"
    assert load(DATA_DIR="/srv/data", DATABASE_URL=url).database.url == url


def test_a_relative_registry_starts_at_the_bundle() -> None:
    bundle = Path(__file__).resolve().parents[2]
    assert load(REGISTRY="registry/Other.yaml").registry == bundle / "registry/Other.yaml"
    assert load().registry == bundle / "registry/ModelRegistry.yaml"


def test_the_data_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert load().data_dir == Path("/xdg/modelmora")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert load().data_dir == Path("/home/ada/.local/share/modelmora")
    assert load(DATA_DIR="~/mm").data_dir == Path("/home/ada/mm")
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert load().data_dir == Path("/home/ada/Library/Application Support/modelmora")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(SettingsError, match="MODELMORA_DATA_DIR"):
        load()
    assert load(DATA_DIR="/srv/data").data_dir == Path("/srv/data")


def test_loading_touches_nothing_and_the_data_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    settings = load(DATA_DIR=str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []
    assert settings.make_data_dir() == settings.make_data_dir() == tmp_path / "data"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("# mine\nMODELMORA_HTTP_PORT=8080\nexport MODELMORA_GRPC_PORT='9090'\nOTHER=1\n")
    settings = Settings.load({"MODELMORA_HTTP_PORT": "8181"}, env_file=dotenv)
    assert (settings.http.port, settings.grpc.port) == (8181, 9090)


def test_the_file_in_the_working_directory_is_read_untold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load({}).limits.items == 256
    (tmp_path / ".env").write_text("MODELMORA_LIMITS_ITEMS=3\n")
    assert Settings.load({}).limits.items == 3


def test_the_process_environment_is_read_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_LIMITS_ITEMS", "12")
    assert Settings.load(env_file=None).limits.items == 12


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"MODELMORA_HTTP_PORT=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env: cannot be read"):
        Settings.load({}, env_file=dotenv)


def test_a_line_of_the_file_that_sets_nothing_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("# mine\nMODELMORA_HTTP_PORT 8080\nOTHER='unfinished\n")
    with pytest.raises(SettingsError, match=r"\.env:2: got 'MODELMORA_HTTP_PORT 8080', takes NAME=value"):
        Settings.load({}, env_file=dotenv)


def test_the_constructor_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_HTTP_PORT", "8080")
    assert Settings().http.port == 3000


def test_all_faults_are_told_at_once_each_with_variable_value_and_what_it_takes() -> None:
    with pytest.raises(SettingsError) as caught:
        load(HTTP_PORT="abc", API_WORKERS="0", LOG_LEVEL="loud", HTP_HOST="x")
    assert isinstance(caught.value, ValidationFailed)
    assert str(caught.value).splitlines() == [
        "4 settings are wrong:",
        "  MODELMORA_API_WORKERS: got '0', takes a whole number, 1 or more",
        "  MODELMORA_HTP_HOST: there is no such setting; did you mean MODELMORA_HTTP_HOST?",
        "  MODELMORA_HTTP_PORT: got 'abc', takes a port number from 1 to 65535",
        "  MODELMORA_LOG_LEVEL: got 'loud', takes debug, info, warning or error",
    ]
    fault = caught.value.faults[2]
    assert (fault.field, fault.found, fault.expected) == (
        "MODELMORA_HTTP_PORT",
        "'abc'",
        "a port number from 1 to 65535",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_HOST", "http://x"),
        ("HTTP_PORT", "0"),
        ("HTTP_PORT", "65536"),
        ("HTTP_MAX_BODY_BYTES", "0"),
        ("HTTP_MAX_BODY_BYTES", "many"),
        ("HTTP_CORS_ORIGINS", "example.org"),
        ("GRPC_MAX_MESSAGE_BYTES", "-1"),
        ("API_DECODE_THREADS", "0"),
        ("LIMITS_TEXT_CHARS", "2k"),
        ("RUNNER_DRAIN_TIMEOUT_S", "inf"),
        ("RUNNER_MEMORY_FRACTION", "1.1"),
        ("DATABASE_URL", "mysql://h/db"),
        ("DATABASE_URL", "sqlite+aiosqlite:///relative.db"),
        ("DATABASE_URL", "sqlite+aiosqlite://"),
        ("DATABASE_URL", "postgresql+asyncpg://host"),
        ("OBJECTS_URL", "file://objects"),
        ("OBJECTS_URL", "s3+http://host:9000/bucket"),
        ("OBJECTS_URL", "s3+https://key:secret@host:9000"),
        ("OBJECTS_URL", "ftp://host/bucket"),
        ("WEIGHTS_MAX_BYTES", "0"),
        ("DATA_DIR", "relative"),
        ("DATA_DIR", "~nobody-of-that-name/x"),
        ("LOG_FORMAT", "xml"),
        ("ALLOW_ANONYMOUS", "maybe"),
    ],
)
def test_a_wrong_value_is_one_fault_of_its_variable(name: str, value: str) -> None:
    assert list(faults(**{name: value})) == [f"MODELMORA_{name}"]


def test_passwords_stay_out_of_error_messages() -> None:
    detail = faults(DATABASE_URL="mysql+x://me:secret@db/modelmora")["MODELMORA_DATABASE_URL"]
    assert "secret" not in detail
    assert "me:***@db" in detail


def test_a_group_cannot_be_given_as_json() -> None:
    assert "no such setting" in faults(HTTP='{"port": 8080}')["MODELMORA_HTTP"]


def test_what_clients_read_is_passed_over() -> None:
    load(URL="http://127.0.0.1:3000", CONTROL_URL="http://127.0.0.1:3000", TOKEN="t")


def test_what_kubernetes_puts_beside_a_service_of_our_name_is_passed_over() -> None:
    settings = load(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="3000",
        SERVICE_PORT_HTTP="3000",
        PORT="tcp://10.0.0.1:3000",
        PORT_3000_TCP="tcp://10.0.0.1:3000",
        PORT_3000_TCP_ADDR="10.0.0.1",
        HTTP_PORT="tcp://10.0.0.1:3000",
        HTTP_SERVICE_HOST="10.0.0.1",
    )
    assert settings.http.port == 3000


@pytest.mark.parametrize("name", ["HTTP_HOST", "GRPC_HOST"])
def test_nobody_beyond_this_machine_is_served_unless_that_is_asked_for(name: str) -> None:
    detail = faults(**{name: "0.0.0.0"})[f"MODELMORA_{name}"]
    assert "MODELMORA_ALLOW_ANONYMOUS=true" in detail
    load(**{name: "0.0.0.0"}, ALLOW_ANONYMOUS="true")
    for loopback in ("127.0.0.2", "::1", "localhost"):
        load(**{name: loopback})


def test_two_listeners_need_two_ports() -> None:
    assert "MODELMORA_HTTP_PORT, which is 50051" in faults(HTTP_PORT="50051")["MODELMORA_GRPC_PORT"]


def test_the_usual_deadline_is_not_above_the_longest() -> None:
    assert (
        "at most MODELMORA_LIMITS_MAX_TIMEOUT_MS, which is 1000"
        in faults(LIMITS_MAX_TIMEOUT_MS="1000")["MODELMORA_LIMITS_TIMEOUT_MS"]
    )


def test_rules_are_asked_beside_wrong_values_but_not_about_them() -> None:
    found = faults(HTTP_HOST="0.0.0.0", HTTP_PORT="abc", GRPC_PORT="3000")
    assert set(found) == {"MODELMORA_HTTP_HOST", "MODELMORA_HTTP_PORT"}
    assert set(faults(HTTP_HOST="0.0.0.0", ALLOW_ANONYMOUS="maybe")) == {"MODELMORA_ALLOW_ANONYMOUS"}


def test_what_is_one_workers_own_is_not_shared_by_several() -> None:
    with pytest.raises(SettingsError) as refused:
        load(API_WORKERS="2")
    assert "MODELMORA_VECTORS_URL" in str(refused.value)
    assert "MODELMORA_EVENTS_URL" in str(refused.value)
    assert load(API_WORKERS="2", VECTORS_URL="null://", EVENTS_URL="null://").api.workers == 2
