"""Loading, estimating and unloading in a real kernel, as a user does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.test_bad_input import assert_one_sentence
from tests.support import tiny_models as tiny
from tests.support.kernel import Kernel, after

pytest.importorskip("torch")
pytest.importorskip("transformers")
TINY = "h2q://tiny-deepseek"
ADD = (
    "m_tokenizer.decode(m.generate(**m_tokenizer.apply_chat_template([{'role': 'user', "
    "'content': 'What is 17 + 25?'}], add_generation_prompt=True, return_tensors='pt', "
    "return_dict=True))[0]).split('Answer: ')[1][:2]"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_dense(tmp_path_factory.mktemp("large") / "m", 400)


def test_the_embedded_model_is_loaded_listed_used_and_unloaded(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    reply = kernel.run(f"%h2q_load {TINY} --as m --budget 500MB", timeout=90)
    assert reply.status == "ok", reply.shown
    assert "m and m_tokenizer = DeepseekV3ForCausalLM (fp32)" in reply.shown
    assert kernel.value(ADD, timeout=60) == "42"
    shown = kernel.run("%h2q_models").shown
    assert "DeepseekV3ForCausalLM" in shown
    assert "fp32" in shown
    shown = kernel.run("%h2q_unload m").shown
    assert "m is gone" in shown
    assert kernel.value("['m' in globals(), 'm_tokenizer' in globals()]") == [False, False]
    assert "no model" in kernel.run("%h2q_models").shown


def test_who_still_holds_a_model_is_told(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    kernel.run(f"%h2q_load {TINY} --as m --budget 500MB", timeout=90)
    kernel.run("class Pipe: pass\npipe = Pipe(); pipe.model = m; kept = {'a': [m]}")
    kernel.run("m")  # Out keeps what a cell showed
    shown = kernel.run("%h2q_unload m").shown
    assert "still held by" in shown
    assert "pipe.model" in shown
    assert "kept['a'][0]" in shown
    assert "Out[" not in shown
    assert "no longer its name" in kernel.run("%h2q_models").shown
    kernel.run("del pipe, kept")
    assert "no model" in kernel.run("%h2q_models").shown


def test_an_estimate_shows_the_ladder_and_its_plot(fresh_kernel: Kernel) -> None:
    reply = fresh_kernel.run(
        f"%h2q_estimate {TINY} --context 64 --batch 2 --budget 1GiB", timeout=90
    )
    assert reply.status == "ok", reply.shown
    for name in ("fp32", "bf16", "mapped", "int8", "int4", "offload"):
        assert name in reply.shown
    (data,) = reply.h2q
    assert (data["kind"], data["n_parameters"], data["chosen"]) == ("estimate", 507_792, "fp32")
    assert len(data["curve"]) > 2


def test_replacing_frees_the_old_model_only_where_it_must(
    fresh_kernel: Kernel, large: Path
) -> None:
    kernel = fresh_kernel
    first = kernel.run(f"%h2q_load {large} --budget 900MiB", timeout=90)
    assert first.status == "ok", first.shown
    again = kernel.run(f"%h2q_load {large} --budget 60MiB --ladder full", timeout=90)
    assert again.status == "error"
    assert "--replace would free the model loaded before it" in again.shown
    again = kernel.run(f"%h2q_load {large} --budget 60MiB --ladder full --replace", timeout=90)
    assert again.status == "ok", again.shown
    assert "the old model was freed first: bf16 needed its room" in again.shown
    again = kernel.run(f"%h2q_load {large} --budget 900MiB --replace", timeout=90)
    assert "stayed until the new one was ready" in again.shown


def test_an_interrupted_load_is_one_calm_line_and_changes_nothing(
    fresh_kernel: Kernel, large: Path
) -> None:
    kernel = fresh_kernel
    kernel.run("import torch, transformers.modeling_utils, time; model = 'mine'", timeout=60)
    # Slow enough to be met in the middle of the weights, on any machine.
    kernel.run(
        "from h2q_notebook.load import reading as _r\n_fill = _r.PieceReader._fill\n"
        "def _slow(*args):\n    time.sleep(0.1)\n    return _fill(*args)\n"
        "_r.PieceReader._fill = _slow"
    )
    before = kernel.used_bytes()
    timer = after(4.0, kernel.interrupt)
    reply = kernel.run(f"%h2q_load {large} --budget 900MiB --ladder full", timeout=90)
    timer.join()
    assert reply.status == "error"
    assert "interrupted; the load was undone and no name has changed" in reply.shown
    assert "Traceback" not in reply.shown
    assert kernel.value("model") == "mine"
    assert kernel.used_bytes() - before < 60 * 2**20
    assert kernel.run("1 + 1").status == "ok"


def test_a_load_inside_a_guarded_cell_is_stopped_with_it(fresh_kernel: Kernel, large: Path) -> None:
    kernel = fresh_kernel
    kernel.run("import torch, transformers.modeling_utils; model = 'mine'", timeout=60)
    reply = kernel.run(
        f"%%h2q_budget 150MiB --no-gauge\n%h2q_load {large} --budget 900MiB --ladder full",
        timeout=90,
    )
    assert reply.outcome is not None
    assert reply.outcome["status"] == "overrun"
    assert kernel.value("model") == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "%h2q_load h2q://tiny-depseek", f"%h2q_load {TINY} --ladder full,int9",
        f"%h2q_load {TINY} --ladder", f"%h2q_load {TINY} --context none",
        f"%h2q_load {TINY} --context 0", f"%h2q_load {TINY} --batch 0",
        f"%h2q_load {TINY} --batch two", f"%h2q_load {TINY} --task poetry --as zz",
        f"%h2q_load {TINY} --device tpu", f"%h2q_load {TINY} --device cuda:99",
        f"%h2q_load {TINY} --as _m", f"%h2q_load {TINY} --replace yes",
        "%h2q_estimate", "%h2q_estimate /no/such", f"%h2q_estimate {TINY} --context -4",
        f"%h2q_estimate {TINY} --as m", f"%h2q_estimate {TINY} --budget lots",
        "%h2q_models all", "%h2q_unload", "%h2q_unload nothing", "%h2q_unload a --all",
        "%h2q_unload --idle soon", "%h2q_unload --idle 10m --all", "%h2q_unload a b",
    ],
)  # fmt: skip
def test_a_wrong_line_is_one_sentence_and_changes_nothing(kernel: Kernel, line: str) -> None:
    assert_one_sentence(kernel, line)
