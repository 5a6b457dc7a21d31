"""Go templates: what Go renders, and where what it refuses is."""

from typing import Any

import pytest

from deployments.errors import ConfigInvalid
from deployments.text.go_functions import Struct
from deployments.text.go_nodes import TemplateError
from deployments.text.go_template import GoTemplate

DATA = Struct(
    Input="hi",
    RoleName="assistant",
    Content=" text ",
    Empty="",
    Nothing=None,
    Count=2,
    Half=0.5,
    Yes=True,
    Map={"b": {"c": 1}, "a": None},
    List=["x", "y"],
    Functions=[Struct(Name="f", Description="<d>", Strict=False, Parameters={"b": 1, "a": [1.5, "é"]})],
    Calls=[Struct(Index=0, FunctionCall=Struct(Name="f", Arguments='{"q":1}'))],
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain { } text\n", "plain { } text\n"),
        ("{{.Input}} {{ .Count }} {{.Half}} {{.Yes}}", "hi 2 0.5 true"),
        ("a \n {{- .Input -}} \n b", "ahib"),
        ("a {{/* comment\n two lines */}} b", "a  b"),
        ("a {{- /* trimmed */ -}} b", "ab"),
        ("{{-3}}{{- 4 }}", "-34"),
        # if, with
        ("{{if .Empty}}A{{else if .Count}}B{{else}}C{{end}}", "B"),
        ("{{if .Empty}}A{{else if .Nothing}}B{{else}}C{{end}}", "C"),
        ("{{with .Input}}{{.}} {{$.Count}}{{else}}none{{end}}", "hi 2"),
        ("{{with .Empty}}{{.}}{{else}}{{.Input}}{{end}}", "hi"),
        ("{{with $x := .Map.b}}{{$x.c}}{{.c}}{{end}}", "11"),
        # range
        ("{{range .List}}{{.}},{{end}}", "x,y,"),
        ("{{range $item := .List}}{{$item}}{{$.Count}}{{end}}", "x2y2"),
        ("{{range $i, $item := .List}}{{if $i}}, {{end}}{{$item}}{{end}}", "x, y"),
        ("{{range $key, $value := .Map}}{{$key}}={{$value}};{{end}}", "a=<no value>;b=map[c:1];"),
        ("{{range .Nothing}}x{{else}}empty{{end}}", "empty"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        # variables
        ('{{$t := "a"}}{{if true}}{{$t = "b"}}{{end}}{{$t}}', "b"),
        ('{{$t := "a"}}{{if true}}{{$t := "b"}}{{end}}{{$t}}', "a"),
        # fields
        ("{{.Map.b.c}} {{.Map.missing}} {{.Map.missing.deeper}} {{.Nothing}}", "1 <no value> <no value> <no value>"),
        ("{{(index .Functions 0).Name}} {{$.Input}} {{(.Map).b.c}}", "f hi 1"),
        # literals
        (r'{{"q\"\n\u00e9\x41"}} {{`raw "}}" \n`}}', 'q"\néA raw "}}" \\n'),
        ("{{0x10}} {{1.5}} {{1e3}} {{nil}} {{'a'}}", "16 1.5 1000 <no value> 97"),
        # comparison and logic
        (
            '{{eq .RoleName "user" "assistant"}} {{ne .Count 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 1.5 1}}',
            "true false true true false true",
        ),
        ("{{and .Empty .Missing}}|{{and 1 2}}|{{or .Empty 3}}|{{or 0 false}}|{{not .Empty}}", "|2|3|false|true"),
        # functions and pipes
        ("{{.Content | trim | upper}}{{len .List}}{{len `é`}}", "TEXT22"),
        ('{{printf "%s %d %v %q" .Input 7 .List "q"}}', 'hi 7 [x y] "q"'),
        ('{{printf "%5.2f %03d %t %%" .Half 5 true}}', " 0.50 005 true %"),
        ('{{printf "%d %s" "x"}}', "%!d(x) %!s(MISSING)"),
        ('{{print 1 2 "a" 3}} {{println "a" 1}}', "1 2a3 a 1\n"),
        ('{{index .Map "b" "c"}} {{index .List 1}} {{slice .Input 1}}', "1 y i"),
        ("{{toJson .Map}}", '{"a":null,"b":{"c":1}}'),
        (
            "{{toJson (index .Functions 0)}}",
            r'{"name":"f","description":"\u003cd\u003e","strict":false,"parameters":{"a":[1.5,"é"],"b":1}}',
        ),
        ("{{toJson .Calls}}", r'[{"index":0,"function":{"name":"f","arguments":"{\"q\":1}"}}]'),
        ('{{default "d" .Empty}} {{.Input | default "d"}}', "d hi"),
        ('{{ternary "y" "n" .Yes}} {{coalesce .Empty .Input}}', "y hi"),
        ('{{"a.b" | replace "." "-"}} {{"x" | repeat 3}}', "a-b xxx"),
        ('{{contains "b" "abc"}} {{hasPrefix "a" "abc"}} {{hasSuffix "a" "abc"}}', "true true false"),
        ("{{`a\nb` | indent 2}}|{{nindent 1 .Input}}", "  a\n  b|\n hi"),
        ('{{list 1 2 | join ","}} {{(dict "k" "v").k}}', "1,2 v"),
        ('{{first .List}} {{last .List}} {{has "x" .List}}', "x y true"),
        ("{{add 1 2 3}} {{sub 5 2}} {{mul 2 3}} {{mod 5 3}} {{add1 1}}", "6 3 6 2 2"),
    ],
)
def test_rendering_is_gos(source: str, expected: str) -> None:
    assert GoTemplate(source).render(DATA) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Input", r"t:1: unexpected the end"),
        ("x\n{{if .Yes}}a\n", r"t:2: \{\{if\}\} has no"),
        ("\n\n{{end}}", r"t:3: unexpected \{\{end\}\}"),
        ("{{if .Yes}}a{{else}}b{{else}}c{{end}}", r"t:1: \{\{if\}\} has no"),
        ("{{if}}a{{end}}", r"t:1: unexpected"),
        ("\n{{frobnicate .Input}}", r"t:2: frobnicate is not supported"),
        ('{{define "x"}}', r"t:1: define is not supported"),
        ("{{$x}}", r"t:1: undefined variable \$x"),
        ("{{$x = 1}}", r"t:1: undefined variable \$x"),
        ("{{if $x := .Yes}}{{end}}{{$x}}", r"t:1: undefined variable \$x"),
        ("{{range $x := .List}}{{else}}{{$x}}{{end}}", r"t:1: undefined variable \$x"),
        ("{{.Input .Count}}", r"t:1: \.Input is not a function"),
        ("{{.Count | .Input}}", r"t:1: \.Input is not a function"),
        ("{{(.Input}}", r"t:1: unexpected"),
        ("{{and}}", r"t:1: and needs an argument"),
        (r'{{"a\q"}}', r"t:1: unknown escape"),
        (r'{{"\x4"}}', r"t:1: bad literal"),
        ("{{`never closed}}", r"t:1: unexpected '`'"),
        ('{{"two\nlines"}}', "t:1: unexpected"),
    ],
)
def test_what_does_not_parse_is_refused_with_its_line(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        GoTemplate(source, "t")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n{{.Inptu}}", r"t:2: can't evaluate field Inptu in this template's data"),
        ("{{.Input.More}}", r"t:1: can't evaluate field More in hi"),
        ("{{range .Input}}{{end}}", r"t:1: range can't iterate over hi"),
        ("{{eq .Input 1}}", r"t:1: error calling eq: incompatible types"),
        ('{{lt 1 "a"}}', r"t:1: error calling lt: incompatible types"),
        ("{{index .List 5}}", r"t:1: error calling index: index out of range"),
        ("{{index .Input 0 1 2}}", r"t:1: error calling index"),
        ("{{trim .Count}}", r"t:1: error calling trim"),
        ("{{upper}}", r"t:1: error calling upper"),
        ("{{mod 1 0}}", r"t:1: error calling mod"),
    ],
)
def test_what_fails_on_its_data_says_where(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        GoTemplate(source, "t").render(DATA)


def test_a_template_error_is_the_operators() -> None:
    assert issubclass(TemplateError, ConfigInvalid)


def test_one_template_renders_many_times() -> None:
    template = GoTemplate("{{$n := .Input}}{{range .List}}{{$n}}{{.}}{{end}}")
    data: list[dict[str, Any]] = [
        {"Input": "a", "List": ["1", "2"]},
        {"Input": "b", "List": []},
        {"Input": "c", "List": ["3"]},
    ]
    assert [template.render(item) for item in data] == ["a1a2", "", "c3"]
