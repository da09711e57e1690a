import pytest

from runtime.addresses import endpoint_urls
from runtime.config import AdminSettings, Config, HttpSettings, TlsSettings

OWN = AdminSettings(place="own")


@pytest.mark.parametrize(
    ("config", "clients", "page"),
    [
        (Config(), "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        (Config(admin=OWN), "http://127.0.0.1:8000", "http://127.0.0.1:8001"),
        (
            Config(http=HttpSettings(host="10.0.0.1"), tls=TlsSettings(certificate="cert.pem")),
            "https://10.0.0.1:8000",
            "http://127.0.0.1:8001",
        ),
        (
            Config(
                http=HttpSettings(host="10.0.0.1"),
                admin=AdminSettings(host="10.0.0.1"),
                tls=TlsSettings(certificate="cert.pem"),
            ),
            "https://10.0.0.1:8000",
            "https://10.0.0.1:8001",
        ),
    ],
)
def test_the_page_is_where_the_operators_endpoints_are(
    config: Config, clients: str, page: str
) -> None:
    assert endpoint_urls(config) == (clients, page)
