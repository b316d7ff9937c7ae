"""Explore: what is drawn and scored, how it is written as HTML, and what the controls do."""

import html.parser
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pslib import modes, policy
from pslib.lab import answers, place
from pslib.lab.engines import CachedEngine, engine_for
from pslib.lab.measures import BITS
from pslib.study import explore
from tests.support import llama as small

SUM = "7+8+6+1+2+3"


@pytest.fixture
def asking(model, tokenizer, he):
    """ask, of the tiny model, with few tokens."""
    return lambda question=SUM, **given: explore.ask(
        model,
        tokenizer,
        (modes.NORMAL, he),
        question,
        **{"samples": 3, "max_new_tokens": 8, **given},
    )


@pytest.fixture
def asked(asking):
    return asking()


# --- what is drawn and scored ---------------------------------------------------------------------
def test_each_mode_draws_its_samples_and_every_token_is_scored_in_both(asked, model, tokenizer, he):
    assert asked.answers.rollouts.modes == ["normal"] * 3 + ["he"] * 3
    for k in range(6):
        response = asked.answers.rollouts.tokens[k, : asked.answers.rollouts.lengths[k]].tolist()
        for mode in (modes.NORMAL, he):
            prompt = modes.render(tokenizer, mode, SUM)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + response])).logits[
                    0, len(prompt) - 1 : -1
                ]
            logp, entropy = policy.logprobs_and_entropy(logits, torch.tensor(response))
            assert torch.allclose(
                asked.answers.logp[mode.name][k, : len(response)], logp, atol=1e-4
            )
            assert torch.allclose(
                asked.answers.entropy[mode.name][k, : len(response)], entropy, atol=1e-4
            )


def test_the_kl_at_a_token_is_that_of_the_first_prompt_from_the_second_by_hand():
    def model(input_ids, logits_to_keep):
        # after prompt 1 every distribution is (1/2, 1/2), after prompt 2 it is (1/4, 3/4)
        probs = torch.tensor([1.0, 1.0] if input_ids[0, 0] == 1 else [0.5, 1.5]) / 2
        return SimpleNamespace(logits=probs.log().expand(1, logits_to_keep, 2))

    model.device = "cpu"
    tokens, lengths = torch.zeros(2, 3, dtype=torch.long), torch.tensor([1, 3])
    # in bits: 1/2 log2 2 + 1/2 log2 2/3 = 0.2075; the other way round 1/4 log2 1/2 + 3/4 log2 3/2 =
    # 0.1887
    for first, second, bits in ((1, 2, 0.2075187), (2, 1, 0.1887219)):
        kl = explore.kl_by_token(model, [first], [second], tokens, lengths) / math.log(2)
        assert kl.tolist() == [
            pytest.approx([bits, 0, 0], abs=1e-6),
            pytest.approx([bits] * 3, abs=1e-6),
        ]


def test_the_kl_is_that_of_the_distributions_that_each_token_was_drawn_from(
    asked, model, tokenizer, he
):
    def after(mode, response):
        with torch.no_grad():
            return (
                model(input_ids=torch.tensor([modes.render(tokenizer, mode, SUM) + response]))
                .logits[0, -1]
                .softmax(-1)
            )

    for k in range(6):
        response = asked.answers.rollouts.tokens[k, : asked.answers.rollouts.lengths[k]].tolist()
        for t in range(len(response)):
            p, q = after(he, response[:t]), after(modes.NORMAL, response[:t])
            assert float(asked.kl[k, t]) == pytest.approx(
                float((p * (p / q).log()).sum()), rel=1e-2, abs=1e-5
            )
        assert not asked.kl[k, len(response) :].any()


def test_the_table_has_means_over_each_responses_own_tokens(asking, monkeypatch):
    scripted(monkeypatch, "stepwise: 7+8=15", "glance: \\boxed{9}", "halves:")
    asked = asking()
    table = asked.table()
    assert (
        table["mode"].tolist() == asked.answers.rollouts.modes
        and table["sample"].tolist() == [0, 1, 2] * 2
    )
    assert len(set(table.tokens)) == 3
    for k, row in enumerate(table.itertuples()):
        length, own = int(asked.answers.rollouts.lengths[k]), asked.answers.rollouts.modes[k]
        assert row.tokens == length
        assert row.bits == pytest.approx(
            float(asked.answers.entropy[own][k, :length].mean()) * BITS, rel=1e-5
        )
        assert row.kl == pytest.approx(float(asked.kl[k, :length].mean()), rel=1e-5)


def test_a_seed_repeats_a_draw_and_another_changes_it(asking):
    first, again, other = (asking(seed=seed).answers.rollouts.texts for seed in (1, 1, 2))
    assert first == again != other


def test_at_temperature_0_one_response_is_drawn_in_each_mode_whatever_the_seed(asking):
    first, other = asking(temperature=0.0, seed=1), asking(temperature=0.0, seed=2)
    assert (
        first.answers.rollouts.modes == ["normal", "he"]
        and first.answers.rollouts.texts == other.answers.rollouts.texts
    )
    assert "temperature 0: every response of a mode would be the same" in explore.side_by_side(
        first
    )


def scripted(monkeypatch, *texts):
    """Let both modes respond with these texts, whatever the model."""
    original = answers.sample

    def sample(engine, tokenizer, *rest, **named):
        rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
        width = max(map(len, rows))

        class Scripted:
            def generate(self, prompts, copies, decoding, seeds):
                filled = [row + [0] * (width - len(row)) for row in rows]
                return torch.tensor(filled * len(prompts)), torch.tensor(
                    [len(row) for row in rows] * len(prompts)
                )

        return original(Scripted(), tokenizer, *rest, **named)

    monkeypatch.setattr(answers, "sample", sample)


@pytest.mark.parametrize(
    "question, answer, correct, derivations",
    [
        ("7+8+6", "", [1, 0], ["steps", "glance"]),  # a sum is worked out
        ("7+8+6: 31 or 21", "", [1, 0], ["steps", "glance"]),
        ("7+8+6", "20", [0, 1], ["steps", "glance"]),  # what the reader says counts
        ("What is 21?", "21", [1, 0], ["", ""]),
        ("What is 21?", "", [None, None], ["", ""]),
    ],
)
def test_correctness_and_derivation_are_marked(
    asking, monkeypatch, question, answer, correct, derivations
):
    scripted(
        monkeypatch, "stepwise: 7+8=15, 15+6=21. Thus 21 \\boxed{21}", "glance: Thus 20 \\boxed{20}"
    )
    asked = asking(question, answer=answer, samples=2)
    table = asked.table()
    assert table.correct.tolist() == correct * 2 and table.derivation.tolist() == derivations * 2
    shown = text_of(explore.side_by_side(asked))
    for value, sign in ((1, "✓ right"), (0, "✗ wrong"), (None, "? no answer")):
        assert shown.count(sign) == 2 * correct.count(
            value
        )  # by a sign, and so without colours too
    assert shown.count("by steps") == 2 * derivations.count("steps") and "cut off" not in shown


def test_a_response_that_did_not_end_is_said_to_be_cut_off(asking):
    assert "1 tokens, cut off" in text_of(
        explore.side_by_side(asking(max_new_tokens=1, temperature=0.0))
    )


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"question": ""}, "there is no question"),
        ({"question": " \n\t"}, "there is no question"),
        (
            {"question": "1+" * 300 + "1"},
            r"takes 6\d\d tokens in normal mode.*shorten the question",
        ),
        ({"question": "1+" * 30_000 + "1"}, "60001 characters.*shorten it"),
        ({"temperature": -0.1}, "temperature must be a finite number at least 0"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
        ({"temperature": math.inf}, "temperature must be a finite number"),
        ({"samples": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_sentence(asking, given, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        asking(**given)
    assert "\n" not in str(error.value)


# --- any causal language model --------------------------------------------------------------------
@pytest.fixture
def llama(tokenizer, tmp_path):
    """The folder of a small Llama model with random weights."""
    return small.save(tokenizer, tmp_path, 32, 256, pad_token_id=tokenizer.pad_token_id)


def test_another_architecture_from_a_folder_is_explored_alike(llama, he):
    model, tokenizer = explore.load(llama)
    assert isinstance(engine_for(model, tokenizer), CachedEngine)
    asked = explore.ask(model, tokenizer, (modes.NORMAL, he), "Why?", samples=2, max_new_tokens=5)
    assert (
        asked.answers.rollouts.modes == ["normal"] * 2 + ["he"] * 2
        and (asked.kl[asked.answers.rollouts.mask] > 0).all()
    )
    assert "Why?" in text_of(explore.side_by_side(asked))


def test_a_model_without_a_chat_template_is_refused_in_one_sentence(llama):
    (llama / "chat_template.jinja").unlink()
    with pytest.raises(
        ValueError, match="no chat template, so it has no system turn.*use an instruction-tuned"
    ) as error:
        explore.load(llama)
    assert "\n" not in str(error.value)


def test_a_folder_may_be_given_relative_to_the_project(llama, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(place, "ROOT", llama.parent)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert explore.load(llama.name)[0].config.model_type == "llama"


# --- tokens as texts ------------------------------------------------------------------------------
def metaspace():
    """A tokenizer that drops the space in front of a lone word, as Llama's does."""
    vocab = {"<unk>": 0, "▁a": 1, "▁b": 2, "c": 3, "</s>": 4}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def test_pieces_join_up_to_the_decoded_response(tokenizer, asked):
    for k, own in enumerate(asked.pieces):
        ids = asked.answers.rollouts.tokens[k, : asked.answers.rollouts.lengths[k]].tolist()
        assert len(own) == len(ids) and "".join(own) == tokenizer.decode(ids)


def test_pieces_keep_the_space_that_a_lone_word_would_lose():
    assert explore.pieces(metaspace(), [1, 2, 3, 2]) == ["a", " b", "c", " b"]


@pytest.fixture(scope="session")
def bytewise():
    """A tokenizer whose every token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: k for k, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_character_of_several_tokens_stands_at_the_last(bytewise):
    ids = bytewise("aé€😀b")["input_ids"]
    assert explore.pieces(bytewise, ids) == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]


def test_bytes_that_are_no_text_hold_nothing_back(bytewise):
    ids = bytewise("a😀")["input_ids"]
    broken = [ids[0], *[ids[1]] * 9, ids[0]]  # nine beginnings of a character
    out = explore.pieces(bytewise, broken)
    assert (
        len(out) == len(broken)
        and "".join(out) == bytewise.decode(broken)
        and out[4] == 4 * "\ufffd"
    )


# --- HTML -----------------------------------------------------------------------------------------
class Reader(html.parser.HTMLParser):
    """Tags, attributes and text of some HTML."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = set(), [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.open += [tag] if tag != "br" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def text_of(shown):
    return Reader(shown).text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</code></td></table>",
    "&lt;b&gt;",
    "<!-- ",
    "]]>",
    "$\\alert$",
    "a\u202eb",
    "\x00\x1b[31m",
    "\u200b",
    "\ud7ff\U000e0001",
    "`${x}`",
]


def test_hostile_text_stays_text_wherever_it_comes_from(asked):
    text = "".join(HOSTILE)
    he = replace(asked.modes[1], system=text)
    asked = replace(
        asked,
        question=text,
        answer=text,
        modes=(asked.modes[0], he),
        pieces=[(HOSTILE * 8)[: len(own)] for own in asked.pieces],
    )
    for colour in explore.COLOURS:
        read = Reader(explore.side_by_side(asked, colour))
        assert (
            read.tags == {"div", "p", "b", "bdi", "br", "table", "tr", "td", "code"}
            and not read.open
        )
        assert {name for name, _ in read.attributes} == {"class", "style", "title"}
        assert (
            read.text.count("<script>alert(1)</script>") >= 3 + 6
        )  # question, answer, prompt; and every response
        assert all(c.isprintable() or c in "\n\xa0" for c in read.text) and "a\\u202eb" in read.text


def test_a_newline_is_seen_and_breaks_the_line(asked):
    shown = text_of(
        explore.side_by_side(replace(asked, pieces=[["one\n", "two"], *asked.pieces[1:]]))
    )
    assert "one⏎\ntwo" in shown


def luminance(code):
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = (int(code[k : k + 2], 16) / 255 for k in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", explore.COLOURS)
def test_black_is_readable_on_every_shade_and_each_is_darker_than_the_one_before(colour):
    backgrounds = [luminance(shade) for shade in explore._shades(colour)]
    assert len(backgrounds) == len(explore.COLOURS[colour][1]) + 1
    # in lightness alone, which is what is left without hues
    assert all((b + 0.05) / (a + 0.05) < 0.89 for a, b in itertools.pairwise(backgrounds))
    assert min((b + 0.05) / 0.05 for b in backgrounds) >= 4.5  # WCAG 2.2, level AA


@pytest.mark.parametrize(
    "colour, own",
    [
        ("entropy", lambda asked: asked.answers.entropy["normal"] * BITS),
        ("inter-mode KL", lambda asked: asked.kl),
    ],
)
def test_a_tokens_colour_is_that_of_its_range_in_the_legend(asked, colour, own):
    edges, shades = explore.COLOURS[colour][1], explore._shades(colour)
    values = torch.tensor([0.0, edges[0], (edges[2] + edges[3]) / 2, edges[-1] * 9])
    scale = {"entropy": 1 / BITS, "inter-mode KL": 1.0}[colour]
    where = asked.kl if colour == "inter-mode KL" else asked.answers.entropy["normal"]
    where[0, :4] = values * scale * 1.000001
    asked = replace(asked, pieces=[["zero", "first", "middle", "most"], *asked.pieces[1:]])
    shown = explore.side_by_side(asked, colour)
    for word, step in (("zero", 0), ("first", 1), ("middle", 3), ("most", len(edges))):
        before = shown[: shown.index(f">{word}</bdi>")].rsplit("<bdi", 1)[1]
        assert f"background-color: {shades[step]}; color: #000000" in before
    legend = text_of(shown[: shown.index("<table")]).replace("\xa0", " ")
    assert (
        f"below {edges[0]:g}" in legend
        and f"{edges[2]:g} to {edges[3]:g}" in legend
        and f"{edges[-1]:g} or more" in legend
    )
    assert {"entropy": "bits", "inter-mode KL": "nats"}[colour] in legend


def test_a_colour_that_there_is_not_is_named(asked):
    with pytest.raises(ValueError, match="entropy or inter-mode KL; got 'sound'"):
        explore.side_by_side(asked, "sound")


# --- controls -------------------------------------------------------------------------------------
class Panel:
    """The controls, by name."""

    def __init__(self, *given):
        box = explore.controls(*given)
        names = (
            "which",
            "question",
            "answer",
            "system",
            "temperature",
            "samples",
            "seed",
            "colour",
        )
        for name, widget in zip(names, box.children, strict=False):
            setattr(self, name, widget)
        (self.button, self.said), self.shown = box.children[8].children, box.children[9]


@pytest.fixture
def panel(model, tokenizer, asked):
    return Panel(model, tokenizer, asked)


def test_controls_start_from_what_was_asked(panel, asked):
    assert panel.shown.value == explore.side_by_side(asked)
    assert (panel.question.value, panel.temperature.value, panel.samples.value) == (SUM, 1.0, 3)
    assert panel.answer.value == ""  # what was worked out is not the next question's answer


def test_a_press_draws_by_the_controls(panel, asking):
    panel.question.value, panel.answer.value = "1+2+3+4+5+6", "21"
    panel.temperature.value, panel.samples.value, panel.seed.value = 0.5, 2, 7
    panel.button.click()
    wanted = asking("1+2+3+4+5+6", answer="21", temperature=0.5, samples=2, seed=7)
    assert (
        panel.shown.value == explore.side_by_side(wanted)
        and panel.said.value == ""
        and not panel.button.disabled
    )


def test_a_press_draws_under_the_prompt_that_was_typed_from_the_chosen_model(
    model, tokenizer, asked, asking, monkeypatch
):
    panel = Panel(model, tokenizer, asked, "entropy", ("the base", tokenizer))
    assert panel.which.options == ("trained", "base model")
    panel.system.value, panel.which.value = " Answer twice. ", "base model"
    got = []
    monkeypatch.setattr(explore, "ask", lambda *given: got.append(given) or asked)
    panel.button.click()
    assert got[0][0] == "the base" and [each.system for each in got[0][2]] == [
        None,
        "Answer twice.",
    ]


def test_each_press_takes_the_next_seed_and_one_put_back_repeats(panel):
    panel.button.click()
    first, seed = panel.shown.value, panel.seed.value
    panel.button.click()
    assert panel.shown.value != first and panel.seed.value == seed + 1
    panel.seed.value = seed - 1
    panel.button.click()
    assert panel.shown.value == first


def test_the_colour_changes_without_drawing(panel, asked, monkeypatch):
    monkeypatch.setattr(explore, "ask", None)
    panel.colour.value = "inter-mode KL"
    assert panel.shown.value == explore.side_by_side(asked, "inter-mode KL")


@pytest.mark.parametrize(
    "question, sentence", [(" ", "there is no question"), ("<b>" * 300, "shorten the question")]
)
def test_what_cannot_be_asked_is_said_and_leaves_the_rest(panel, question, sentence):
    before, panel.question.value = panel.shown.value, question
    panel.button.click()
    assert sentence in panel.said.value and "<b><b>" not in panel.said.value
    assert panel.shown.value == before and not panel.button.disabled
    panel.question.value = SUM
    panel.button.click()
    assert panel.said.value == "" and panel.shown.value != before
