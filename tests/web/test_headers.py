"""What every answer tells a browser, and whose address counts behind a proxy."""

import pytest
import torch

import app as root
from pytorch_sam_wrapper import PyTorchSam
from sam_config import SamConfig
from sam_server.network.sam import Sam
from sam_server.network.variants import VARIANTS

PATHS = ["/", "/docs", "/openapi.json", "/health", "/backend_info", "/metrics", "/nothing", "/page/choices.json"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_safe_to_show(client, path):
    with client.get(path) as answer:
        headers = answer.headers
        html = answer.mimetype == "text/html"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert html or "default-src 'none'" in policy
    assert html or headers["Cache-Control"] == "no-store"


def test_errors_and_exports_are_safe_to_show_too(client, coins):
    answer = client.post("/sessions", data=coins, content_type="image/png")
    picture = client.get(f"{answer.headers['Location']}/image")
    broken = client.post("/segment", data="<script>", content_type="text/html")
    for found in (answer, picture, broken):
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert found.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert picture.headers["Cache-Control"].startswith("private")


@pytest.mark.parametrize(("proxies", "statuses"), [(0, [200, 429]), (1, [200, 200])])
def test_the_address_behind_a_proxy(proxies, statuses):
    torch.manual_seed(0)
    backend = PyTorchSam(Sam(VARIANTS["tiny"]), torch.device("cpu"), "fp32")
    config = SamConfig(model_type="tiny", rate_limit="1/hour", trusted_proxies=proxies)
    client = root.create_app(config, backend).test_client()
    given = [client.get("/backend_info", headers={"X-Forwarded-For": address}) for address in ("10.0.0.1", "10.0.0.2")]
    assert [answer.status_code for answer in given] == statuses
