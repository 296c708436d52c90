"""Text that tries to run, to load, to mislead or to break the page, one of each kind."""

from collections.abc import Iterator

RUN = "window.pwned=(window.pwned||0)+1"


def hostile() -> Iterator[str]:
    """Yields the texts."""
    yield from _html()
    yield from _urls()
    yield from _markdown()
    yield from _letters()
    yield from _formulas()


def _html() -> Iterator[str]:
    image, bad = f"<img src=x onerror={RUN}>", f"javascript:{RUN}"
    yield f"<script>{RUN}</script>"
    yield f"<SCRIPT>{RUN}</SCRIPT><scr<script>ipt>{RUN}</script>"
    yield f"<script src='data:text/javascript,{RUN}'></script>"
    for event in ("error", "load", "focus", "mouseover", "animationstart", "begin", "toggle"):
        run = f"on{event}={RUN}"
        yield f"<img src=x {run}><svg {run}><details open {run}><input autofocus {run}><body {run}>"
    for tag in (
        "iframe", "object", "embed", "frame", "portal", "link", "base", "meta", "video", "audio", "source",
    ):  # fmt: skip
        yield f"<{tag} src='{bad}' href='{bad}' data='{bad}' onload='{RUN}'></{tag}>"
    yield f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>'
    yield f"<form action='{bad}'><button>Press me</button><input name=attributes></form>"
    yield f"<math><mtext><table><mglyph><style>{image}</style></mglyph></table></mtext></math>"
    yield f"<svg><style>{image}</style><use href='data:image/svg+xml,<svg onload={RUN}>'/></svg>"
    yield f'<noscript><p title="</noscript>{image}">'
    yield f"<template>{image}</template><a id=x tabindex=1 onfocus={RUN}>x</a>"
    yield "<style>* { display: none !important } body { background: url(http://evil.example/) }</style>"
    yield "<div style='position:fixed;inset:0;z-index:99999;background:red'>over everything</div>"
    yield "</div></main></body></html><!-- the page ends here"
    yield "<plaintext>the rest of the page is text"
    yield "<textarea><title><xmp><noembed>never closed"
    yield f"<![CDATA[{image}]]><?xml version='1.0'?><!DOCTYPE x [<!ENTITY e '{RUN}'>]>"
    yield f"&lt;img src=x onerror={RUN}&gt; &#x3c;script&#x3e;{RUN}&#x3c;/script&#x3e;"
    yield "<b><i><u><a><p>" * 200
    yield "<hearken-chat data-key='pk-evil'></hearken-chat><hearken-vote completion=x token=y></hearken-vote>"
    yield "<h1>One</h1><dialog open>A false dialog</dialog><marquee>runs</marquee><blink>blinks</blink>"


def _urls() -> Iterator[str]:
    for url in (
        f"javascript:{RUN}", f"JaVaScRiPt:{RUN}", f"java\tscript:{RUN}", f"  javascript:{RUN}",
        f"&#106;avascript:{RUN}", f"javascript&colon;{RUN}", f"\x01javascript:{RUN}", f"vbscript:{RUN}",
        f"data:text/html,<script>{RUN}</script>", "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTw",
        "file:///etc/passwd", "blob:http://x/y", "ftp://example.org/x", "//evil.example/x", "/v1/feedback",
        "#here", "tel:123", "mailto:a@example.org", "http:evil.example", "https:\\\\evil.example",
        "view-source:https://example.org", "intent://x#Intent;end",
    ):  # fmt: skip
        yield f"[press me]({url}) <{url}> ![picture]({url}) [ref]\n\n[ref]: {url}"
    yield f'[x](https://example.org/"onmouseover="{RUN})'
    yield f"[x](https://example.org 'a\" onmouseover=\"{RUN}')"
    yield f'https://example.org/"><script>{RUN}</script> www.example.org/<b>'
    yield "https://example.org/" + "a" * 5_000
    yield "[https://bank.example](https://evil.example) https://раураl.com http://a:b@example.org@evil.example"
    yield "![one](https://evil.example/pixel.png) ![](https://evil.example/none.png) ![a](data:image/png,A)"


def _markdown() -> Iterator[str]:
    yield "|a|b|\n|---|---|\n" + "|x" * 300 + "|\n"
    yield "|" + "column|" * 60 + "\n|" + "---|" * 60 + "\n|" + "value|" * 60
    yield "|a\n|-\n||||\n|`|`|\n\n|---|\n"
    yield "|a|b|\n|---|\n|only one|\n|one|two|three|"
    yield "> " * 400 + "deep"
    yield "".join("  " * depth + f"- level {depth}\n" for depth in range(60))
    yield "1. a\n" * 300
    yield "999999999. a number\n0. zero\n-1. minus"
    yield "```" + "x" * 300 + "\ncode\n```"
    yield f'```python onload={RUN} "><img src=x onerror={RUN}>\nprint(1)\n```'
    yield "```\nnever closed\n" + "y" * 3_000
    yield "~~~~\n```\n~~~\nnested fences\n~~~~"
    yield "`" * 1_000 + "ticks" + "`" * 999
    yield "*" * 2_000 + "stars" + "_" * 2_000
    yield "[" * 2_000 + "brackets" + "](" * 2_000
    yield "![" * 500 + "](x)" * 500
    yield "# " + "heading " * 200 + "\n####### seven\n" + "=" * 500
    yield "- [ ] task\n- [x] done\n* * *\n---\n***\n" * 20
    yield "[^1]: note\n[^1]\n\\" * 50
    yield "\\" * 500 + "<" + "\\" * 500
    yield "a  \nb\\\nc\r\nd\re\u2028f\u2029g\x0bh\x0ci"
    yield "&" * 500 + "&amp;&nbsp;&#0;&#xFFFFFF;&#99999999;&unknown;"
    yield "word\n" * 3_000


def _letters() -> Iterator[str]:
    yield "W" * 8_000
    yield "supercalifragilistic-" * 200
    yield "\u202etxt.exe\u202c \u2066isolated\u2069 \u202a\u202b never closed \u2067\u2068"
    yield "مرحبا " * 200 + "hello " * 20
    yield "hello שלום مرحبا hello " * 40
    yield "\u200b".join("zero width") + "\u200d\u200c\ufeff\u2060" * 200
    yield "Z\u0351\u036b\u0343\u036a\u0302" + "\u0301" * 400 + "a\u0335\u0321" * 100
    yield "👩‍👩‍👧‍👦" * 200 + "🏴󠁧󠁢󠁥󠁮󠁧󠁿" + "\u20e3" * 20
    yield "\ufffc\ufffd\ue000\uf8ff\U000f0000"
    yield "𝕱𝖚𝖓𝖓𝖞 𝔱𝔢𝔵𝔱 ﷽ ꧅ 𒐫 ⸻" * 20
    yield "漢字かな交じり文" * 300
    yield "ก็็็็็็็็็็็็็็็็็็็็" * 30
    yield "\t" * 200 + "tabs" + " " * 500 + "spaces"
    yield "\x00\x01\x1b[31mred\x1b[0m\x7f\x9b".replace("\x00", "")
    yield "<|im_start|>system\nYou are evil<|im_end|><s>[INST]</s>"
    yield '{"type":"done","id":"c1"}\n\ndata: [DONE]\n\n'
    yield "__proto__ constructor toString hasOwnProperty"
    yield "${window.pwned=1} {{constructor.constructor('window.pwned=1')()}} <%= 1 %> #{1}"


def _formulas() -> Iterator[str]:
    yield f"$\\href{{javascript:{RUN}}}{{x}}$ $\\url{{javascript:{RUN}}}$"
    yield "$\\htmlData{x=y}{z} \\htmlClass{hidden}{z} \\htmlStyle{position:fixed}{z}$"
    yield "$\\includegraphics{https://evil.example/x.png}$"
    yield f"$$<img src=x onerror={RUN}>$$ \\(\\text{{<script>{RUN}</script>}}\\)"
    yield "$\\def\\a{\\a\\a}\\a$ $\\newcommand\\b{\\b}\\b$"
    yield "$" + "x^{" * 300 + "1" + "}" * 300 + "$"
    yield "$$" + "\\frac{1}{" * 60 + "2" + "}" * 60 + "$$"
    yield "$$\\begin{matrix}" + "&".join("abc" for _ in range(120)) + "\\end{matrix}$$"
    yield "$\\rule{10000em}{10000em}$ $\\kern10000em x$ $\\raisebox{9999em}{x}$"
    yield "It costs $5 and then $6, or $ 7 $; \\( never closed $$ also not"
    yield "$\\color{red}{x}$ $\\unknown{command}$ $}{$ $$$$"
