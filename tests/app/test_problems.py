from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.app.conftest import SOFTMAX
from torch_autokernel.app.problems import expand, load, load_one
from torch_autokernel.core.errors import UsageError

Write = Callable[[str, str], Path]

ROBUST = """
import torch
from torch import nn

def forward_fn(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

class Model(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x, fn=forward_fn):
        return fn(x, self.weight, self.eps)

def get_inputs(batch_size=2, width=8):
    return [torch.randn(batch_size, width)]

def get_init_inputs(width=8, eps=1e-5):
    return [width, eps]
"""
FUNCTION = """
import torch

def scaled(x, factor):
    return x.sin() * factor

def example_inputs():
    return torch.randn(3, 5), 2.0
"""


def failing(target: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(str(target))
    assert caught.value.hint
    return caught.value


# ------------------------------------------------------------------------------------------- forms
def test_kernelbench(write: Write) -> None:
    problem = load_one(str(write("soft.py", SOFTMAX + "\nstatic_sizes = [6]\n")))
    assert (problem.name, problem.form, problem.static_sizes) == ("soft", "kernelbench", (6,))
    assert problem.call().shape == (4, 6)


def test_a_function_named_model_makes_the_model(write: Write) -> None:
    text = SOFTMAX.replace("class Model", "class Inner") + "\ndef Model(scale):\n    return Inner(scale)\n"
    problem = load_one(str(write("made.py", text)))
    assert type(problem.model).__name__ == "Inner" and problem.call().shape == (4, 6)


def test_inputs_are_the_same_each_time_and_leave_the_generator_alone(write: Write) -> None:
    path = str(write("soft.py", SOFTMAX))
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, second = load_one(path), load_one(path)
    assert torch.equal(first.inputs[0], second.inputs[0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_robust_kbench_defaults_and_configuration(write: Write) -> None:
    path = write("norm/func_forward.py", ROBUST)
    assert load_one(str(path)).call().shape == (2, 8)
    configs = {
        "single_input_configs": [{"batch_size": 3}],
        "single_init_configs": [{"eps": 0.1}],
        "single_shared_configs": [{"width": 4}],
    }
    write("norm/config_forward.json", json.dumps(configs))
    problem = load_one(str(path))
    assert (problem.name, problem.form) == ("norm/func_forward", "robust-kbench")
    assert problem.call().shape == (3, 4)
    assert problem.model.eps == 0.1  # type: ignore[attr-defined]


def test_robust_kbench_has_a_problem_for_each_configuration(write: Write) -> None:
    path = write("norm/func_forward.py", ROBUST)
    write("norm/config_forward.json", json.dumps({"multi_input_configs": [{"batch_size": 1}, {"batch_size": 5}]}))
    assert [(p.name, p.call().shape[0]) for p in load(str(path))] == [
        ("norm/func_forward[batch_size=1]", 1),
        ("norm/func_forward[batch_size=5]", 5),
    ]
    with pytest.raises(UsageError, match="2 configurations"):
        load_one(str(path))


def test_robust_kbench_function_alone_with_flat_configuration(write: Write) -> None:
    text = "import torch\ndef forward_fn(x):\n    return x.relu()\ndef get_inputs(n=2):\n    return [torch.randn(n)]\n"
    path = write("func_forward.py", text)
    write("config_forward.json", '{"n": 9}')
    assert load_one(str(path)).call().shape == (9,)


def test_function(write: Write) -> None:
    problem = load_one(str(write("plain.py", FUNCTION)))
    assert problem.form == "function"
    assert torch.equal(problem.call(), problem.inputs[0].sin() * 2.0)


def test_function_is_chosen_by_the_files_name_or_after_a_colon(write: Write) -> None:
    path = write("scaled.py", FUNCTION + "\ndef other(x, factor):\n    return x\n")
    assert load_one(str(path)).model.__name__ == "scaled"
    problem = load_one(f"{path}:other")
    assert (problem.name, problem.model.__name__) == ("scaled:other", "other")


def test_inputs_by_name(write: Write) -> None:
    text = "import torch\ndef f(*, x, k=1):\n    return x * k\ndef example_inputs():\n    return {'x': torch.ones(2), 'k': 3}\n"
    assert load_one(str(write("named.py", text))).call().tolist() == [3.0, 3.0]


def test_module_and_callable(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("pack_of_mine/blocks.py", FUNCTION)
    write("pack_of_mine/__init__.py", "")
    monkeypatch.chdir(tmp_path / "work")
    before = list(sys.path)
    problem = load_one("pack_of_mine.blocks:scaled")
    assert (problem.name, problem.form) == ("pack_of_mine.blocks:scaled", "callable")
    assert sys.path == before
    for name in ("pack_of_mine.blocks", "pack_of_mine"):
        sys.modules.pop(name)


def test_a_file_may_import_its_neighbour_and_sys_path_is_as_before(write: Write) -> None:
    write("neighbour_of_mine.py", "FACTOR = 3.0\n")
    path = write("plain.py", "import sys\nfrom neighbour_of_mine import FACTOR\nsys.path.append('/nowhere')\n" + FUNCTION)
    before = list(sys.path)
    load(str(path))
    assert sys.path == before
    assert sys.modules.pop("neighbour_of_mine").FACTOR == 3.0
    assert "plain" not in sys.modules


def test_two_files_of_one_name_do_not_meet(write: Write) -> None:
    first = load_one(str(write("a/same.py", FUNCTION)))
    second = load_one(str(write("b/same.py", FUNCTION.replace("sin", "cos"))))
    assert first.model is not second.model
    assert not torch.equal(first.call(), second.call())


def test_folder(write: Write) -> None:
    path = write("set/b.py", SOFTMAX)
    write("set/deep/a.py", FUNCTION)
    write("set/helper.py", "def help():\n    pass\n")
    write("set/_private.py", SOFTMAX)
    assert [Path(f).name for f in expand([str(path.parent)])] == ["b.py", "a.py"]


def test_training_inputs(write: Write) -> None:
    problem = load_one(str(write("plain.py", FUNCTION))).training()
    assert problem.inputs[0].requires_grad
    chosen = FUNCTION.replace("torch.randn(3, 5), 2.0", "torch.randn(3, 5), torch.ones(5, requires_grad=True)")
    problem = load_one(str(write("chosen.py", chosen))).training()
    assert [t.requires_grad for t in problem.inputs] == [False, True]


# ------------------------------------------------------------------------------------------- errors
def test_missing_file_suggests_a_near_one(write: Write) -> None:
    path = write("softmax.py", SOFTMAX)
    error = failing(path.with_name("sofmax.py"))
    assert "no file" in error.message
    assert "softmax.py?" in error.hint


def test_no_known_form_tells_the_names_that_are_there(write: Write) -> None:
    assert "build_net" in failing(write("x.py", "def build_net():\n    pass\n")).message
    assert "nothing to call" in failing(write("y.py", "def example_inputs():\n    return []\n")).message
    error = failing(write("z.py", FUNCTION + "\ndef second(x):\n    pass\n"))
    assert "second" in error.message and ":scaled" in error.hint


@pytest.mark.parametrize(
    ("change", "line", "told"),
    [
        (("return [torch.randn(4, 6)]", "return [torch.randn(4, 'a')]"), 15, "get_inputs"),
        (("return [2.0]", "return [2.0, 3.0]"), None, "making Model"),
        (("import nn", "import nn, nonsense"), 3, "importing"),
        (("self.scale = scale", "self.scale = scale ="), 8, "SyntaxError"),
    ],
)
def test_errors_in_the_file_name_the_line(write: Write, change: tuple[str, str], line: int | None, told: str) -> None:
    path = write("bad.py", SOFTMAX.replace(*change))
    error = failing(path)
    assert told in error.message and str(path) in error.message + error.hint
    assert line is None or f"line {line}" in error.message


def test_error_in_forward(write: Write) -> None:
    path = write("bad.py", SOFTMAX.replace("torch.softmax(x *", "torch.softmax(x.nothing *"))
    with pytest.raises(UsageError, match=r"calling bad failed \(line 12\): AttributeError"):
        load_one(str(path)).call()


@pytest.mark.parametrize("target", ["nonsense", "no_such_package:f", "torch:no_such_name", "math:pi"])
def test_bad_names(target: str) -> None:
    failing(target)


def test_bad_configurations(write: Write) -> None:
    path = write("func_forward.py", ROBUST)
    config = write("config_forward.json", "{")
    assert "is not JSON" in failing(path).message
    config.write_text('{"single_input_configs": 3}')
    assert "list of objects" in failing(path).message
    config.write_text('{"no_such_argument": 3}')
    assert "no_such_argument" in failing(path).message


def test_folders_without_problems(write: Write, tmp_path: Path) -> None:
    helper = write("only/helper.py", "x = 1\n")
    with pytest.raises(UsageError, match=r"helper\.py"):
        expand([str(helper.parent)])
    with pytest.raises(UsageError, match=r"no \.py files"):
        (tmp_path / "empty").mkdir()
        expand([str(tmp_path / "empty")])
    failing(f"{helper.parent}:f")
