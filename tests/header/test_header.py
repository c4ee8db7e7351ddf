"""The header keeps its contract: so say compilers, linkers and cores, and its self test names where it does not."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.toolchain import (
    CORES,
    CompileError,
    compile_host,
    compile_object,
    host_compiler,
    host_cxx_compiler,
    invoke,
    section_sizes,
)
from quantal.export.build import Build
from quantal.export.emit.c.memory import input_word, record_dtype
from quantal.export.run.host import split_records
from support.headers import BOTH, HEADERS, IN_C, STRICT, implementation, output, program

elffile = pytest.importorskip("elftools.elf.elffile")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")
SANITIZE = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# What C compilers call by themselves; nothing else is needed to link a header.
RUNTIME = re.compile(r"(__aeabi_)?mem(cpy|move|set|clr)[48]?")


# ---- compilers


@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("name", HEADERS)
def test_header_and_test_program_compile_clean_and_pass(
    name: str, level: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers(name)
    compile_host([build.test_program], tmp_path / "test", flags=[*IN_C, level])
    assert output(tmp_path / "test") == f"{name}: self test passed\n".encode()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", HEADERS)
def test_header_compiles_clean_for_a_core_and_needs_nothing_there(
    name: str, core: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    strict = "".join(f'#pragma clang diagnostic error "{warning}"\n' for warning in BOTH)
    (tmp_path / "model.c").write_text(strict + implementation(name))
    compile_object(CORES[core], tmp_path / "model.c", tmp_path / "model.o", include=headers(name).path)
    with (tmp_path / "model.o").open("rb") as stream:
        symbols = list(elffile.ELFFile(stream).get_section_by_name(".symtab").iter_symbols())
    outside = {s.name: s["st_shndx"] for s in symbols if s["st_info"]["bind"] != "STB_LOCAL"}
    defined = {symbol for symbol, section in outside.items() if section != "SHN_UNDEF"}
    assert defined == {f"{name}_{verb}" for verb in ("reset", "step", "argmax", "classify", "self_test")}
    assert [symbol for symbol in set(outside) - defined if not RUNTIME.fullmatch(symbol)] == []
    sizes = section_sizes(tmp_path / "model.o")
    assert (sizes.data, sizes.bss) == (0, 0)


@pytest.mark.parametrize("standard", ["c++11", "c++17"])
@pytest.mark.parametrize("name", HEADERS)
def test_header_compiles_clean_as_cpp(
    name: str, standard: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers(name)
    use = (
        f'#include "{name}.h"\nint main() {{ static {name}_state s; return static_cast<int>({name}_self_test(&s)); }}\n'
    )
    (tmp_path / "main.cpp").write_text(f"#define {name.upper()}_SELF_TEST\n{use}")
    (tmp_path / "model.cpp").write_text(implementation(name))
    sources = [str(tmp_path / "main.cpp"), str(tmp_path / "model.cpp")]
    command = [*host_cxx_compiler(), f"-std={standard}", *STRICT, f"-I{build.path}", *sources]
    invoke([*command, "-o", str(tmp_path / "program")])
    assert output(tmp_path / "program") == b""


@pytest.mark.parametrize("name", HEADERS)
def test_cpp_links_with_a_header_implemented_in_c(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    include = f"-I{headers(name).path}"
    (tmp_path / "model.c").write_text(implementation(name))
    use = f"int main() {{ static {name}_state s; return static_cast<int>({name}_self_test(&s)); }}\n"
    (tmp_path / "main.cpp").write_text(f'#define {name.upper()}_SELF_TEST\n#include "{name}.h"\n{use}')
    invoke([*host_compiler(), *IN_C, include, "-c", str(tmp_path / "model.c"), "-o", str(tmp_path / "model.o")])
    sources = [str(tmp_path / "main.cpp"), str(tmp_path / "model.o")]
    invoke([*host_cxx_compiler(), *STRICT, include, *sources, "-o", str(tmp_path / "program")])
    assert output(tmp_path / "program") == b""


@pytest.mark.parametrize("name", HEADERS)
def test_header_may_be_included_again_and_again(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    once, again = f'#include "{name}.h"\n', f"#define {name.upper()}_IMPLEMENTATION\n"
    use = f"int main(void) {{ static {name}_state s; other(&s); return (int){name}_self_test(&s); }}\n"
    top = f"#define {name.upper()}_SELF_TEST\n"
    declared = f"void other({name}_state *s);\n"
    path = program(
        tmp_path,
        headers(name),
        main=top + once + once + again + once + once + declared + use,
        other=once + once + declared + f"void other({name}_state *s) {{ {name}_reset(s); }}\n",
    )
    assert output(path) == b""


@pytest.fixture(scope="session")
def sanitizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags, where this machine's compiler can link with them."""
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    try:
        compile_host([folder / "empty.c"], folder / "empty", flags=SANITIZE)
    except CompileError as error:
        pytest.skip(f"no sanitizers here: {error}")
    return SANITIZE


@pytest.mark.parametrize("name", HEADERS)
def test_all_vectors_pass_under_the_sanitizers(
    name: str, headers: Callable[[str], Build], sanitizers: tuple[str, ...], tmp_path: Path
) -> None:
    build = headers(name)
    x, reference = build.vectors()
    compile_host([build.test_program], tmp_path / "test", flags=sanitizers)
    content = output(tmp_path / "test", str(x.shape[1]), stdin=x.astype(input_word(build.network).dtype).tobytes())
    got = split_records(content, record_dtype(build.proven), *x.shape[:2])
    for record, values in reference.items():
        assert np.array_equal(got[record], values), record


def test_the_test_program_refuses_a_stream_of_no_steps(headers: Callable[[str], Build], tmp_path: Path) -> None:
    compile_host([headers("spikes").test_program], tmp_path / "test")
    for steps in ("0", "-1", "x"):
        assert subprocess.run([tmp_path / "test", steps], capture_output=True, timeout=10).returncode == 2
