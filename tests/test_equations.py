"""Every equation that a docstring cites is asserted by a test, and the index of them is as the sources are."""

from tests import equations

CITATIONS = {
    "Mean (Ho et al. 2020, eq. 7).": ["Ho et al. 2020, eq. 7"],
    "(Ho et al. 2020, eq. 11 and\n    Algorithm 2)": ["Ho et al. 2020, eq. 11", "Ho et al. 2020, algorithm 2"],
    "DDIM (Song, Meng & Ermon 2021, eq. 12 and 16); x": [
        "Song, Meng & Ermon 2021, eq. 12",
        "Song, Meng & Ermon 2021, eq. 16",
    ],
    "Algorithm 1 of Ho et al. 2020 up to": ["Ho et al. 2020, algorithm 1"],
    'Lu et al. 2022, "DPM-Solver++", algorithm 2, 3 steps': [
        'Lu et al. 2022, "DPM-Solver++", algorithm 2',
        'Lu et al. 2022, "DPM-Solver++", algorithm 3',
    ],
    "L_simple of Ho et al. 2020, eq. 14, per element": ["Ho et al. 2020, eq. 14"],
    "(Jabri, Fleet & Chen 2023, algorithm 1; Chen 2023)": ["Jabri, Fleet & Chen 2023, algorithm 1"],
    "(Ho & Salimans 2022, eq. 6, with w)": ["Ho & Salimans 2022, eq. 6"],
    "(Vincent 2011), (Lin et al. 2024, table 2), (Ho et al. 2020, above eq. 4), eq. 5": [],
}


def test_citations_are_found() -> None:
    for text, expected in CITATIONS.items():
        assert equations.citations(text) == expected, text
    assert equations.bare("by eq. 5, Algorithm 2 and\nequation") == {"eq. 5", "algorithm 2"}


def test_marks_are_found() -> None:
    source = """
class TestX:
    @pytest.mark.equation("A 2020, eq. 1", "B & C 2021, algorithm 2")
    @pytest.mark.parametrize("x", [1])
    def test_a(self, x): ...
"""
    assert list(equations.marks(source)) == [
        ("TestX.test_a", "A 2020, eq. 1"),
        ("TestX.test_a", "B & C 2021, algorithm 2"),
    ]


def test_every_cited_equation_is_asserted() -> None:
    tests = equations.asserted()
    missing = [
        f"{equation!r} is cited by {', '.join(map(str, places))}, and no test is marked as asserting it: put "
        f"@pytest.mark.equation({equation!r}) on the test that does, or write one; then python -m tests.equations"
        for equation, places in equations.computed().items()
        if equation not in tests
    ]
    assert not missing, "\n".join(missing)


def test_every_mark_names_a_cited_equation() -> None:
    known = equations.computed()
    unknown = [
        f"{', '.join(map(str, places))}: marked with {equation!r}, which no docstring of "
        f"{' or '.join(equations.SOURCES)} cites: correct the mark, or cite it, in these words, where it is computed"
        for equation, places in equations.asserted().items()
        if equation not in known
    ]
    assert not unknown, "\n".join(unknown)


def test_no_equation_lacks_its_paper() -> None:
    """A docstring may say "eq. 7" alone where another of its file says whose that is."""
    texts: dict[str, str] = {}
    for place, text in equations.docstrings():
        texts[place.file] = texts.get(place.file, "") + "\n" + text
    for file, text in texts.items():
        whose = {citation.rpartition(", ")[2] for citation in equations.citations(text)}
        assert equations.bare(text) <= whose, (
            f"{file}: {sorted(equations.bare(text) - whose)} without a paper: write (Authors YEAR, eq. N), as in "
            "(Ho et al. 2020, eq. 4), once in this file"
        )


def test_the_page_is_as_the_sources_are() -> None:
    assert equations.PAGE.read_text(encoding="utf-8") == equations.page(), (
        f"{equations.PAGE.name} is stale: run python -m tests.equations and commit what it writes"
    )
