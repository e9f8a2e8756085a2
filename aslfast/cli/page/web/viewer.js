// One trajectory: its turns with thinking, tool calls, passages and output told apart; tokens coloured on request.

const STOPS = {
  finished: 'closed with the one output that its role owes', no_output: 'ended its turn with neither a tool call nor an output',
  two_outputs: 'more than one output in the closing turn', malformed_call: 'a tool call in no form that is read',
  unknown_tool: 'called a tool that does not exist', turn_too_long: 'a turn used up its tokens', turn_limit: 'still searching at the last turn',
  context_full: 'the next turn would not fit the context', tool_failed: 'the tool gave no answer',
};
const COLOURINGS = { '': 'no colours', logprob: 'colour tokens by log-prob', advantage: 'colour tokens by advantage' };

function viewer(run, query, key) {
  const i = run.rowOfKey.get(key);
  if (i === undefined) return [el('h1', {}, 'No such trajectory'), el('p', {}, LIVE ? 'It may not be committed yet.' : 'This page does not hold it.')];
  const turns = el('div', { class: 'turns' }, el('p', { class: 'quiet' }, 'Unpacking …'));
  const side = el('aside', {});
  run.body(i).then((body) => {
    turns.replaceChildren(...turnsOf(run, i, body, query.get('colour') ?? ''));
    side.prepend(rewardOf(run, i, body));
  }, (error) => say(error));
  side.append(groupOf(run, i), aboutIt(run, i));
  return [head(run, i, query), el('div', { class: 'viewer' }, turns, side)];
}

function head(run, i, query) {
  const choose = el('select', { name: 'colour', 'aria-label': 'Colours of tokens', on: { change: (event) => changeQuery({ colour: event.target.value }) } },
    Object.entries(COLOURINGS).map(([value, text]) => el('option', { value, selected: value === (query.get('colour') ?? '') }, text)));
  return el('header', { class: 'head' },
    el('p', {}, roleBadge(run.get('role', i), run.roles), ` round ${run.table.round[i]}, step ${run.table.step[i]}, adapter version ${run.table.adapter_version[i]}`),
    el('h1', {}, run.get('question', i) || run.get('task_id', i)),
    el('p', { class: 'tools' }, choose, step(-1, '← previous (k)'), step(1, 'next (j) →'), link(lastList, 'list (l)')));
}

function step(by, text) {
  return el('button', { type: 'button', on: { click: () => turnPage(by) } }, text);
}

let lastList = '#/trajectories';

// the neighbour in the last list, or in the order of the run
function turnPage(by) {
  const { path, query } = readHash();
  const run = runs[Number(query.get('run') || 0)];
  const i = run.rowOfKey.get(path[1]);
  const at = listed.findIndex(([number, row]) => number === run.number && row === i);
  const next = at >= 0 ? listed[at + by]?.[1] : i + by;
  if (next === undefined || next < 0 || next >= run.count) return;
  chosen = Math.max(0, at + by);
  location.hash = hashOf(['t', run.key(next)], { colour: query.get('colour') ?? '', run: run.number || '' });
}

function turnsOf(run, i, body, colouring) {
  let sampled = -1;
  let tool = -1;
  return body.turns.map(([kind, text]) => {
    if (kind === 'sampled') sampled += 1;
    if (kind === 'tool') tool += 1;
    const tokens = kind === 'sampled' ? body.tokens?.[sampled] : null;
    const note = kind === 'sampled' ? sampledNote(run, tokens, body.cached?.[sampled]) : kind === 'tool' && body.passages?.[tool]?.length ? `passages ${body.passages[tool].join(', ')}, best first` : '';
    const shown = kind === 'sampled' ? modelText(text, shades(run, i, tokens, colouring)) : text.trim();
    const title = { prompt: 'Prompt', sampled: 'Model', tool: 'Tool', text: text ? 'Conversation, not split: its headings are not its turns' : 'Empty' }[kind];
    return el('article', { class: `turn ${kind}` }, el('h2', {}, title, note ? el('small', {}, note) : null), el('pre', {}, shown));
  });
}

function sampledNote(run, tokens, cached) {
  if (!tokens) return '';
  const steps = tokens[1];
  const reused = cached ? `, ${whole(cached)} tokens before it reused` : '';
  return `${plural(steps.length, 'token')}, mean log-prob ${number(tokens[2])}${reused}`;
}

const MOST_COLOURED = 20_000; // tokens of a turn

// of each token its end in the text, how strong its colour is and what a pointer reads
function shades(run, i, tokens, colouring) {
  if (!tokens || !colouring || tokens[0].length > MOST_COLOURED) return null;
  const advantage = run.table.advantage[i] ?? 0;
  let end = 0;
  return tokens[0].map((length, n) => {
    end += length;
    const nats = tokens[1][n] / run.nats;
    const strength = colouring === 'logprob' ? Math.min(1, nats / 3) : Math.min(1, Math.abs(advantage));
    const colour = colouring === 'logprob' ? '--unlikely' : advantage >= 0 ? '--good' : '--bad';
    return { end, strength, colour, title: `log-prob −${nats.toFixed(2)}, advantage ${signed(advantage)}` };
  });
}

const BLOCK = /<(think|tool_call|answer|verdict|question|search|result)>[\s\S]*?(?:<\/\1>|$)|\[TOOL_CALLS\][\s\S]*$|<\|[a-z_]+\|>/g;
const BLOCK_CLASS = { think: 'think', tool_call: 'call', search: 'call' };

function modelText(text, shaded) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(BLOCK)) {
    if (match.index > at) parts.push(['', at, match.index]);
    const name = match[0].startsWith('<|') ? 'control' : match[0].startsWith('[') ? 'call' : BLOCK_CLASS[match[1]] ?? 'output';
    parts.push([name, match.index, match.index + match[0].length]);
    at = match.index + match[0].length;
  }
  if (at < text.length) parts.push(['', at, text.length]);
  return parts.map(([name, start, end]) => el('span', { class: name || null }, shaded ? pieces(text, shaded, start, end) : text.slice(start, end)));
}

function pieces(text, shaded, start, end) {
  const found = [];
  let from = 0;
  for (const token of shaded) {
    const [low, high] = [Math.max(from, start), Math.min(token.end, end)];
    from = token.end;
    if (low < high) found.push(el('span', { class: 'token', title: token.title, vars: { '--shade': `var(${token.colour})`, '--strength': `${Math.round(70 * token.strength)}%` } }, text.slice(low, high)));
  }
  if (from < end) found.push(text.slice(Math.max(from, start), end));
  return found;
}

function rewardOf(run, i, body) {
  const parts = Object.entries(body.parts).map(([name, value]) => [name, number(value)]);
  const stop = run.get('stop', i);
  const match = run.table.match[i];
  const facts = [
    ['output', run.get('output', i) ?? '–'], ['with it', run.get('output_answer', i)], [run.isVerdict(i) ? 'label' : 'reference', (body.references ?? []).join(' / ') || null],
    ['matches it', match === null ? null : match ? 'yes' : 'no'], ['reward', number(run.table.reward[i])], ...parts.map(([name, value]) => [`· ${name}`, value]),
    ['advantage', `${signed(run.table.advantage[i])}, reward minus the mean of its group`], ['stop', `${stop}: ${STOPS[stop] ?? ''}`],
    ['sampled', `${plural(run.table.sampled[i], 'token')} of ${whole(run.table.tokens[i])}`], ['searches', run.table.searches[i] === null ? null : whole(run.table.searches[i])],
    ...(body.spans ?? []).map((span) => [`span ${span.name}`, `tokens ${span.start} to ${span.end}${span.reward === null ? '' : `, reward ${number(span.reward)}`}`]),
  ].filter(([, value]) => value !== null && value !== undefined);
  return el('section', { class: 'reward' }, el('h2', {}, 'Reward'), el('dl', {}, facts.map(([name, value]) => [el('dt', {}, name), el('dd', {}, value)])));
}

function groupOf(run, i) {
  const rows = run.groups.get(run.groupOf[i]);
  return el('section', {}, el('h2', {}, `Its group of ${rows.length}`), el('ol', { class: 'links' }, rows.map((row) => entry(run, row, i))));
}

function entry(run, row, current) {
  const match = run.table.match[row];
  const words = [match === 1 ? '✓ ' : match === 0 ? '✗ ' : '', run.get('output', row) ?? run.get('stop', row), ` (${number(run.table.reward[row])})`];
  const compare = row === current ? null : link(hashOf(['compare'], { a: run.key(current), b: run.key(row), run: run.number || '' }), 'compare', { class: 'quiet' });
  return el('li', {}, link(viewerHash(run, row), words, { class: match === 1 ? 'right' : match === 0 ? 'wrong' : null, 'aria-current': row === current ? 'true' : null }), ' ', compare);
}

// the question's other trajectories: who wrote it, who answered it, who judged it
function aboutIt(run, i) {
  const question = run.get('question', i) || run.get('output', i);
  const own = new Set(run.groups.get(run.groupOf[i]));
  const rows = run.about(question).filter((row) => !own.has(row));
  if (!rows.length) return null;
  const byRole = grouped(rows, (row) => run.get('role', row));
  const lists = [...byRole].map(([role, found]) => [el('h3', {}, { generator: 'Written by', grm: 'Judged in' }[role] ?? `${roleName(role)}, other steps`), el('ol', { class: 'links' }, found.slice(0, 24).map((row) => entry(run, row, i)))]);
  return el('section', {}, el('h2', {}, 'The same question'), lists, link(hashOf(['task'], { q: question, run: run.number || '' }), `all ${whole(rows.length)} across rounds`));
}

function grouped(items, nameOf) {
  const found = new Map();
  for (const item of items) found.set(nameOf(item), [...(found.get(nameOf(item)) ?? []), item]);
  return found;
}
