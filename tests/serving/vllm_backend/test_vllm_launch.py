import json
import shutil
import subprocess
import sys

import pytest

from gr4ad.commands.artifacts import serve
from gr4ad.serving import PublishedModel, Recommender, load_recommender
from gr4ad.serving.vllm_backend.launch import VLLMServerConfig, allow_plugin, serve_arguments
from gr4ad.serving.vllm_backend.options import RENAMED, VLLMOptions


def test_options_come_back_from_vllms_additional_config():
    options = VLLMOptions(slo_ms=80, max_batch_rows=512)
    assert VLLMOptions.from_additional_config(options.to_additional_config()) == options
    assert VLLMOptions.from_additional_config({"others": 1}) == VLLMOptions()
    with pytest.raises(ValueError, match="has no option `slo`. It has: top_k, slo_ms"):
        VLLMOptions.from_additional_config({"gr4ad": {"slo": 80}})
    for old, new in RENAMED.items():
        with pytest.raises(ValueError, match=f"`{old}` is called `{new}`"):
            VLLMOptions.from_additional_config({"gr4ad": {old: 1}})


@pytest.mark.parametrize(
    ("given", "named"),
    [({"slo_ms": 0}, "slo_ms"), ({"deadline_ms": 0}, "deadline_ms"), ({"max_batch_rows": 0}, "max_batch_rows")],
)
def test_an_option_out_of_its_range_is_named(given, named):
    with pytest.raises(ValueError, match=f"`{named}` must be .* Received: 0"):
        VLLMOptions(**given)


def test_gr4ad_serve_hands_its_options_to_vllm():
    config = VLLMServerConfig(port=8123, slo_ms=80, vllm_args="--data-parallel-size 2")
    arguments = serve_arguments("out/beauty", config)
    assert arguments[:6] == ["--model", "out/beauty", "--host", "127.0.0.1", "--port", "8123"]
    assert arguments[-2:] == ["--data-parallel-size", "2"]
    given = json.loads(arguments[arguments.index("--additional-config") + 1])
    assert VLLMOptions.from_additional_config(given) == VLLMOptions(slo_ms=80)
    with pytest.raises(ValueError, match="`port` must be in 1..65535. Received: 0"):
        VLLMServerConfig(port=0)


def test_the_plugin_is_allowed_beside_others():
    assert allow_plugin(None) == allow_plugin("") == allow_plugin("gr4ad") == "gr4ad"
    assert allow_plugin("other,third") == "other,third,gr4ad"


def test_without_vllm_the_error_says_what_to_install(tiny_artifact):
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from gr4ad.serving import load_recommender\n"
        f"load_recommender({str(tiny_artifact)!r}, backend='vllm')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs 'vllm', which is missing: pip install 'gr4ad[vllm]'" in done.stderr


def test_an_unknown_backend_is_refused(tiny_artifact):
    with pytest.raises(ValueError, match="`backend` must be one of torch, vllm. Received: 'jax'"):
        load_recommender(tiny_artifact, backend="jax")
    with pytest.raises(ValueError, match="Call `gr4ad.serving.load_recommender"):
        Recommender.from_pretrained(tiny_artifact, backend="vllm")
    assert isinstance(load_recommender(tiny_artifact), Recommender)


def test_a_published_model_is_loaded_by_its_current_version_and_followed(tiny_artifact, tmp_path):
    root = tmp_path / "live"
    published = PublishedModel(root)
    for _ in range(2):
        published.publish(lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True), changes=0)
    arguments = serve_arguments(str(root), VLLMServerConfig())
    assert arguments[:2] == ["--model", str(root / "versions" / "000002")]
    given = json.loads(arguments[arguments.index("--additional-config") + 1])
    assert VLLMOptions.from_additional_config(given) == VLLMOptions(published=str(root))


def test_a_renamed_flag_is_named():
    with pytest.raises(ValueError, match="`--max_step_rows` is called `--max_batch_rows`"):
        serve(["--backend", "vllm", "--model", "x", "--max-step-rows=3"])
