"""What the original does with a response, restated from the rules of its code (forangel2014/Towards-Agentic-Self-
Learning, scripts/exps/asl/asl/rewards/asl3.py): the column `original` of exploits.toml is derived with this."""

import re

from aslfast.rewards.match import normalize


def response(turns):
    """Everything after the prompt, tool responses too, in the original's words: `<answer>conclusion: ...</answer>`."""
    said = [f"<tool_response>{t.text}</tool_response>" if t.kind == "tool" else t.text for t in turns[1:]]
    return "".join(said).replace("<verdict>", "<answer>conclusion: ").replace("</verdict>", "</answer>")


def policy_score(text):
    """What follows the last "conclusion" anywhere: 0 with "incorrect" in it, else 1 with "correct" in it."""
    _, concluded, said = text.lower().rpartition("conclusion")
    return float(bool(concluded) and "incorrect" not in said and "correct" in said)


def last_answer(text):
    found = re.search(r".*<answer>(.*?)</answer>", text, re.DOTALL)
    return found[1].strip() if found else ""


def grm_score(text, label):
    """Whether the label's letters stand in the last answer anywhere."""
    return float(label in normalize(last_answer(text)))


def written_question(text):
    """Whether a question is paid: the last one anywhere, 10 characters or more, "?" among its last five, an answer."""
    found = re.search(r".*<question>(.*?)</question>", text, re.DOTALL)
    asked, answer = found[1].strip() if found else "", last_answer(text)
    return float(len(asked) >= 10 and "?" in asked[-5:] and bool(answer) and "No answer found" not in answer)
