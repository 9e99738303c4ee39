"""Grammars are read by our rules first: whatever these take, llama.cpp takes without a word."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coderv2_local.llama_library import llama
from coderv2_local.sampling.gbnf import _Reader, check_grammar
from coderv2_local.sampling.gbnf_readings import _Search
from coderv2_local.sampling.json_schema import grammar_of
from coderv2_local.sampling.sampler import _CANDIDATE, GrammarDeadEnd, SamplingOptions, _apply
from quant.errors import InputError

GOOD = [
    'root ::= "yes" | "no"',
    'root ::= item+\nitem ::= "- " [^\\r\\n]+ "\\n"',
    'root ::= ( "a" |\n "b" # why\n )* [a-z-]{2,5} "\\x41\\u00e9" . other-1?\nother-1 ::= ""',
    '# only this\nroot ::= "é" [α-ω]{3} "\\"" [\\]\\[]',
    'root ::= "a"{0} ("b"){0,3} "c"{2,}',
    "root ::=",
    'root ::= "a" root | "b"',
    'root ::= ("x"?)* "y"',
]
BAD = {
    "no rule `root`": 'other ::= "a"',
    "line 2, column 1: `::=` was expected|line 2": 'root ::= "a"\nb = "c"',
    "there is no rule `missing`": "root ::= missing",
    '`"` is not closed': 'root ::= "abc',
    "`\\(` is not closed": 'root ::= ("a"',
    "unknown escape": 'root ::= "\\q"',
    "nothing before": "root ::= *",
    "nothing before `\\+`": 'root ::= ""+',
    "cannot be": 'root ::= "a"{3,2}',
    "more than 2000 repetitions": 'root ::= "a"{2001}',
    "more than 2000": 'root ::= ("a"{0,1000} "b"){3}',
    "was expected": 'root ::= "a"{x}',
    "cannot be repeated": 'root ::= "a"**',
    "begins with itself": 'root ::= root "a"',
    "`b` begins with itself": 'root ::= "x" b\na ::= ""\nb ::= a a b "y"',
    "name a token": "root ::= <think>",
    "parentheses": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "too large|symbols|groups": "root ::= " + '("a" | "b")? ' * 5000,
    "at most": "root ::= " + '"a" ' * 100_000,
    "no text": 'root ::= "a\0b"',
    "characters that": 'root ::= "\ud800"',
    "end of the line": 'root ::= "a" )',
}
MANY_READINGS = [
    'root ::= (("a"?){1000}){100}',
    'root ::= ("a"?){500}',
    'root ::= (" "?){30} "x"',
    "root ::= " + '" "? ' * 30,
    'root ::= "start: " [a-z]+ "\\n" end\nend ::= "k" (" "?){30}',
    'root ::= " " root "b" | " " root "c" | ""',
    "root ::= ([a-z]{0,40}){0,40}",
    'root ::= a a a a a a a a\na ::= b*\nb ::= "a"* "a"*',
]
FEW_READINGS = [
    "root ::= [a-z ]{0,500}",
    'root ::= [a-z]{0,500} [a-z]{0,500} "x"',
    'root ::= ([a-z]{0,20} " "){0,50}',
    'root ::= .* "x" .* "y" .*',
    'root ::= [0-9]{4} ("-"? [0-9]{2}){2} [T ] [0-9]{2} (":"? [0-9]{2}){2}',
    'root ::= ws "{" ws "}" ws ws\nws ::= [ \\t\\n]*',
    'root ::= line+\nline ::= name " = " sum "\\n"\nname ::= [a-z] [a-z0-9_]*\n'
    'sum ::= term (" + " term)*\nterm ::= name | [0-9]+ | "(" sum ")"',
]
SCHEMAS = [
    {},
    {"type": "string", "minLength": 500, "maxLength": 2000},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(40)}},
    {"type": "array", "maxItems": 30, "items": {"type": "array", "maxItems": 30, "items": {"type": "integer"}}},
    {"type": "array", "minItems": 20, "maxItems": 100, "items": {"type": "string", "format": "date-time"}},
]


def llama_takes(grammar, vocabulary):
    sampler = llama.llama_sampler_init_grammar(vocabulary.handle, grammar.encode(), b"root")
    if sampler:
        llama.llama_sampler_free(sampler)
    return bool(sampler)


@pytest.mark.parametrize("grammar", GOOD)
def test_what_is_taken_llama_cpp_takes_without_a_word(grammar, tiny, capfd):
    check_grammar(grammar)
    assert llama_takes(grammar, tiny.vocabulary)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("words", "grammar"), BAD.items())
def test_what_cannot_be_used_is_refused_with_its_place(words, grammar, capfd):
    with pytest.raises(InputError, match=words):
        check_grammar(grammar)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("grammar", MANY_READINGS)
def test_a_grammar_over_which_llama_cpp_would_not_end_is_refused(grammar):
    with pytest.raises(InputError, match="too many readings"):
        check_grammar(grammar)


@pytest.mark.parametrize("grammar", FEW_READINGS)
def test_a_grammar_with_few_readings_of_a_text_is_taken(grammar):
    check_grammar(grammar)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_leave_few_readings(schema):
    grammar_of(json.dumps(schema))


def test_the_readings_of_a_text_are_those_that_llama_cpp_has(tiny):
    """One text at a time: what the search takes for a character that fits, llama.cpp does, too."""
    for grammar in [*GOOD, *FEW_READINGS, grammar_of("{}")]:
        search = _Search(_Reader(grammar).rules())
        state = {n: 1 for sequence in search.rules["root"] for n in search.open(search.stack(0, "in", sequence, 0))}
        sampler = llama.llama_sampler_init_grammar(tiny.vocabulary.handle, grammar.encode(), b"root")
        assert sampler
        try:
            for _ in range(30):
                assert {c for c in "abxyz{} 0" if fits(sampler, tiny.vocabulary, c)} == {
                    c for c in "abxyz{} 0" if search.after(state, ord(c))
                }, grammar
                known = [c for c in search.tried(state) if 32 <= c < 127]
                if not known:
                    break
                state = search.after(state, known[len(known) // 2])
                (token,) = tiny.vocabulary.encode(chr(known[len(known) // 2]))
                llama.llama_sampler_accept(sampler, token)
        finally:
            llama.llama_sampler_free(sampler)


def fits(sampler, vocabulary, character):
    (token,) = vocabulary.encode(character)
    one = np.array([(token, 1.0, 0.0)], _CANDIDATE)
    _apply(sampler, one)
    return bool(np.isfinite(one["logit"][0]))


def test_a_grammar_that_takes_long_all_the_same_ends_the_answer(tiny, monkeypatch):
    monkeypatch.setattr("coderv2_local.sampling.sampler.MAX_GRAMMAR_SECONDS", 0.0)
    options = SamplingOptions(grammar='root ::= "yes" | "no"')
    with pytest.raises(GrammarDeadEnd, match="readings"):
        list(tiny.engine.generate([tiny.vocabulary.bos], options, 5))


def test_the_place_is_counted_in_lines_and_columns():
    with pytest.raises(InputError, match="line 3, column 8: unknown escape"):
        check_grammar('# a\nroot ::= a\na ::= "\\q"')


names = st.sampled_from(["root", "a", "b-1", "c"])
pieces = st.sampled_from(
    [
        *'()|*+?.^[]{}"\n# ',
        " ::= ",
        "a",
        "root",
        '"x"',
        '""',
        "[a-z]",
        "[^\\n]",
        "{2}",
        "{1,3}",
        "{0,}",
        "\\",
        "\\x4",
        "é",
        "\t",
    ]
)
bodies = st.recursive(
    st.sampled_from(['"x"', '""', "[a-z]", "[^é]", ".", "root", "a", "b-1", "c", '"\\u00e9"']),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{1,}"])).map(lambda t: f"({t[0]}){t[1]}"),
        st.tuples(inner, inner).map(" ".join),
        st.tuples(inner, inner).map(" | ".join),
    ),
    max_leaves=8,
)
grammars = st.one_of(
    st.lists(pieces, max_size=25).map("".join).map(lambda text: "root ::= " + text),
    st.lists(pieces, max_size=25).map("".join),
    st.lists(st.tuples(names, bodies), min_size=1, max_size=5).map(lambda rs: "\n".join(f"{n} ::= {b}" for n, b in rs)),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grammars)
@example('root ::= "a"{2}\n\n')
def test_llama_cpp_never_finds_a_fault_that_was_not_found_before(tiny, capfd, grammar):
    try:
        check_grammar(grammar)
    except InputError:
        return
    llama_takes(grammar, tiny.vocabulary)  # may still say no (left recursion by its own measure), but prints nothing
    assert capfd.readouterr() == ("", ""), grammar
