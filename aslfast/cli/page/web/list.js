// All trajectories: filters that stand in the address, and a list that draws only what is in sight.

const ROW_HEIGHT = 46;
const FILTERS = ['role', 'round', 'step', 'stop', 'least', 'most', 'show', 'q', 'deep', 'sort'];
const SHOW = { '': 'all', disagree: 'judge and truth disagree', alarm: 'rounds with an alarm', failed: 'without an output', unrewarded: 'without a reward' };
const SORTS = { '': 'as they were made', reward: 'reward, lowest first', '-reward': 'reward, highest first', '-advantage': 'advantage, highest first', advantage: 'advantage, lowest first', '-sampled': 'longest first', '-searches': 'most searches first' };

let listed = []; // rows of the last list, for j and k in the viewer
let chosen = 0;
let searching = 0; // a number that every drawing of a view raises

function listView(run, query) {
  const values = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? '']));
  const state = el('p', { class: 'quiet', role: 'status' });
  const holder = el('div', { class: 'rows', tabindex: 0, role: 'listbox', 'aria-label': 'Trajectories' });
  const ticket = searching;
  const wanted = () => ticket === searching; // nothing else is shown meanwhile
  select(run, values, wanted).then((rows) => wanted() && showRows(run, rows, holder, state, values), (error) => say(error));
  return [el('h1', {}, 'Trajectories'), filterBar(run, values), state, holder];
}

function filterBar(run, values) {
  const change = () => {
    const set = Object.fromEntries(new FormData(bar).entries());
    location.hash = hashOf(['trajectories'], { ...set, run: run.number || '' });
  };
  const unique = (column) => [...new Set(run.table[column] ?? [])].map((code) => (run.isText.has(column) ? run.texts[code] : code));
  const same = (items) => Object.fromEntries([['', 'any'], ...items.map((item) => [item, item])]);
  const bar = el('form', { class: 'filters', on: { change, submit: (event) => { event.preventDefault(); change(); } } },
    choice('role', Object.fromEntries([['', 'any'], ...unique('role').map((role) => [role, roleName(role)])]), values),
    choice('round', same(unique('round').sort((a, b) => a - b)), values), choice('step', same(unique('step').sort((a, b) => a - b)), values),
    choice('stop', same(unique('stop').sort()), values), field('least', 'reward at least', 'number', values), field('most', 'at most', 'number', values),
    choice('show', SHOW, values), choice('sort', SORTS, values), field('q', 'text', 'search', values),
    el('label', { class: 'check' }, el('input', { type: 'checkbox', name: 'deep', value: '1', checked: values.deep === '1' }), 'in the conversations too'),
    link(hashOf(['trajectories'], { run: run.number || '' }), 'Reset'));
  return bar;
}

function choice(name, options, values) {
  const known = values[name] in options ? options : { ...options, [values[name]]: values[name] };
  const made = Object.entries(known).sort(([a], [b]) => (a === '' ? -1 : b === '' ? 1 : 0)).map(([value, text]) => el('option', { value, selected: value === values[name] }, String(text)));
  return el('label', {}, name, el('select', { name }, made));
}

const field = (name, title, type, values) =>
  el('label', {}, title, el('input', { name, type, value: values[name], step: type === 'number' ? 'any' : null, autocomplete: 'off' }));

// the rows that pass all filters, in order
async function select(run, values, wanted) {
  const test = filterOf(run, values);
  let rows = rowsOf(run, test);
  if (values.q) rows = await matching(run, rows, values.q.toLowerCase(), values.deep === '1', wanted);
  const column = values.sort.replace('-', '');
  if (!run.table[column]) return rows;
  const sign = values.sort.startsWith('-') ? -1 : 1;
  const worth = (i) => run.table[column][i] ?? Infinity * sign;
  return rows.sort((a, b) => sign * (worth(a) - worth(b)) || a - b);
}

function filterOf(run, values) {
  const tests = [];
  for (const name of ['role', 'stop']) if (values[name]) tests.push((i) => run.get(name, i) === values[name]);
  for (const name of ['round', 'step']) if (values[name] !== '') tests.push((i) => run.table[name][i] === Number(values[name]));
  const rewarded = (i) => run.table.reward[i] !== null;
  if (values.least !== '') tests.push((i) => rewarded(i) && run.table.reward[i] >= Number(values.least));
  if (values.most !== '') tests.push((i) => rewarded(i) && run.table.reward[i] <= Number(values.most));
  const show = { disagree: (i) => run.disagrees(i), alarm: (i) => run.hasAlarm(i), failed: (i) => run.table.output[i] === null, unrewarded: (i) => !rewarded(i) }[values.show];
  if (show) tests.push(show);
  return (i) => tests.every((test) => test(i));
}

async function matching(run, rows, text, deep, wanted) {
  const has = new Set(run.texts.lower.flatMap((each, code) => (each.includes(text) ? [code] : [])));
  const inTable = (i) => run.text_columns.some((column) => has.has(run.table[column][i]));
  if (!deep) return rows.filter(inTable);
  const found = [];
  for (const i of rows) {
    if (!wanted()) break;
    if (i % 256 === 0) say(`Searching ${whole(i)} of ${whole(run.count)} …`);
    const said = inTable(i) || (await run.body(i)).turns.some(([, each]) => each.toLowerCase().includes(text));
    if (said) found.push(i);
  }
  if (wanted()) say('');
  return found;
}

function showRows(run, rows, holder, state, values) {
  listed = rows.map((i) => [run.number, i]);
  chosen = Math.min(chosen, Math.max(0, rows.length - 1));
  state.textContent = `${whole(rows.length)} of ${whole(run.count)} trajectories` + (values.show === 'disagree' ? ': a verdict that is not the label, or a reward that the reference does not confirm' : '');
  const space = el('div', { class: 'space', vars: { '--rows': rows.length } });
  holder.append(space);
  holder.drawn = new Map();
  holder.draw = () => drawRows(run, rows, holder, space);
  holder.addEventListener('scroll', () => holder.draw(), { passive: true });
  new ResizeObserver(() => holder.draw()).observe(holder);
  holder.scrollTop = Math.max(0, chosen * ROW_HEIGHT - holder.clientHeight / 2);
  holder.draw();
}

function drawRows(run, rows, holder, space) {
  const first = Math.max(0, Math.floor(holder.scrollTop / ROW_HEIGHT) - 6);
  const end = Math.min(rows.length, Math.ceil((holder.scrollTop + holder.clientHeight) / ROW_HEIGHT) + 6);
  for (const [place, node] of holder.drawn) {
    if (place >= first && place < end) continue;
    node.remove();
    holder.drawn.delete(place);
  }
  for (let place = first; place < end; place++) {
    if (!holder.drawn.has(place)) {
      const node = rowOf(run, rows[place], place);
      holder.drawn.set(place, node);
      space.append(node);
    }
    holder.drawn.get(place).setAttribute('aria-selected', place === chosen ? 'true' : 'false');
  }
}

function rowOf(run, i, place) {
  const reward = run.table.reward[i];
  const said = run.get('output', i);
  const match = run.table.match[i];
  return el('a', { class: 'row', role: 'option', href: viewerHash(run, i), vars: { '--at': place }, on: { click: () => { chosen = place; } } },
    roleBadge(run.get('role', i), run.roles),
    el('span', { class: 'when' }, `round ${run.table.round[i]}, step ${run.table.step[i]}`),
    el('span', { class: 'asked' }, run.get('question', i) || run.get('task_id', i)),
    el('span', { class: `said ${match === 1 ? 'right' : match === 0 ? 'wrong' : ''}` }, match === 1 ? '✓ ' : match === 0 ? '✗ ' : '', said ?? run.get('stop', i)),
    el('span', { class: 'figure', title: 'reward' }, number(reward)),
    el('span', { class: 'figure quiet', title: 'reward minus the mean of its group' }, signed(run.table.advantage[i])));
}

const viewerHash = (run, i) => hashOf(['t', run.key(i)], { run: run.number || '' });

// of the keys j and k in the list
function moveChoice(by) {
  const holder = document.querySelector('.rows');
  if (!holder?.draw) return;
  chosen = Math.max(0, Math.min(listed.length - 1, chosen + by));
  const top = chosen * ROW_HEIGHT;
  if (top < holder.scrollTop) holder.scrollTop = top;
  if (top + ROW_HEIGHT > holder.scrollTop + holder.clientHeight) holder.scrollTop = top + ROW_HEIGHT - holder.clientHeight;
  holder.draw();
}

function openChoice() {
  const [number, i] = listed[chosen] ?? [];
  if (i !== undefined) location.hash = viewerHash(runs[number], i);
}
