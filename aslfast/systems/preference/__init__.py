"""Systems in which what is better is said by a comparison or a score, not by a label: SPO, SPPO, SSR-Zero, ACT."""
