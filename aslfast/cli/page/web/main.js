// The page: its views by address, the keyboard, light and dark, and a live page's following of its run.

const runs = [];
const VIEWS = new Map([
  ['', ['Overview', overview]], ['round', ['Rounds', roundView]], ['trajectories', ['Trajectories', listView]],
  ['time', ['Time', timeline]], ['config', ['Configuration', configView]],
]);
const HIDDEN_VIEWS = new Map([['t', viewer], ['task', taskView], ['compare', compareView]]);
const KEYS = [
  ['/', 'search'], ['j, k', 'next, previous: in the list and in a trajectory'], ['Enter', 'open what is chosen in the list'], ['l', 'back to the list'],
  ['o, r, t, s, c', 'overview, rounds, trajectories, time (seconds), configuration'], ['d', 'light or dark'], ['?', 'this help'], ['Esc', 'close, or leave a field'],
];
const LIVE_EVERY_MS = 1000;

function say(text) {
  if (text instanceof Stale) return refresh();
  const status = document.getElementById('status');
  status.replaceChildren(text instanceof Error ? `Cannot be shown: ${text.message}` : text);
  status.hidden = !text;
}

function changeQuery(changes) {
  const { path, query } = readHash();
  location.hash = hashOf(path, { ...Object.fromEntries(query), ...changes });
}

// keepPlace: what is redrawn is what was there, with newer figures
function render(keepPlace = false) {
  if (newer) [runs[0], newer] = [newer, null];
  const { path, query } = readHash();
  const run = runs[Number(query.get('run') || 0)] ?? runs[0];
  const view = VIEWS.get(path[0])?.[1] ?? HIDDEN_VIEWS.get(path[0]) ?? overview;
  if (path[0] === 'trajectories') {
    if (lastList !== location.hash) chosen = 0;
    lastList = location.hash;
  }
  if (searching) say(''); // what an unfinished search said of its progress
  searching += 1;
  const main = document.getElementById('main');
  const place = keepPlace ? [scrollX, scrollY] : [0, 0];
  const focused = main.contains(document.activeElement) ? document.activeElement.name : '';
  const opened = keepPlace ? [...main.querySelectorAll('details')].map((each) => each.open) : [];
  main.replaceChildren(...runChoice(run, path, query), ...view(run, query, path[1]).flat(Infinity).filter(Boolean));
  nameTabs(path[0], run);
  document.getElementById('search-text').value = path[0] === 'trajectories' ? query.get('q') ?? '' : '';
  document.title = `${main.querySelector('h1')?.textContent ?? ''} – ${run.name}`;
  main.querySelectorAll('details').forEach((each, i) => { each.open = opened[i] ?? false; });
  if (focused) main.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
  scrollTo(...place);
}

// the address of a view of the run that is shown
const here = (path, query = {}) => hashOf(path, { ...query, run: readHash().query.get('run') ?? '' });

function nameTabs(current, run) {
  const tabs = [...VIEWS].map(([name, [title]]) => link(hashOf(name ? [name] : [], { run: run.number || '' }), title, { 'aria-current': name === current ? 'page' : null }));
  document.getElementById('tabs').replaceChildren(...tabs);
  document.getElementById('run-name').textContent = run.name;
  document.querySelector('.brand').href = here([]);
}

function runChoice(run, path, query) {
  if (runs.length < 2 || path[0] === 'compare') return [];
  const kept = path[0] === 't' ? [] : path; // a trajectory is one run's
  const links = runs.map((each) => link(hashOf(kept, { ...Object.fromEntries(query), run: each.number || '' }), each.name, { 'aria-current': each === run ? 'page' : null }));
  return [el('nav', { class: 'pages', 'aria-label': 'Runs' }, links)];
}

// --- the keyboard ---------------------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById('keys')) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (typing) return event.key === 'Escape' && event.target.blur();
  const { path } = readHash();
  const free = !/^(A|BUTTON|SUMMARY)$/.test(event.target.tagName) || event.target.closest('.rows');
  const act = { ...KEYS_EVERYWHERE, ...(path[0] === 'trajectories' ? KEYS_OF_LIST : path[0] === 't' ? KEYS_OF_VIEWER : {}) }[event.key];
  if (!act || (event.key === 'Enter' && !free)) return;
  event.preventDefault();
  act();
}

function goTo(path) {
  location.hash = here(path);
}

const KEYS_EVERYWHERE = {
  '/': () => document.getElementById('search-text').select(), '?': showHelp, d: switchTheme, l: () => { location.hash = lastList; },
  o: () => goTo([]), r: () => goTo(['round']), t: () => goTo(['trajectories']), s: () => goTo(['time']), c: () => goTo(['config']), u: refresh,
};
const KEYS_OF_LIST = {
  j: () => moveChoice(1), k: () => moveChoice(-1), ArrowDown: () => moveChoice(1), ArrowUp: () => moveChoice(-1),
  Home: () => moveChoice(-Infinity), End: () => moveChoice(Infinity), Enter: openChoice,
};
const KEYS_OF_VIEWER = { j: () => turnPage(1), k: () => turnPage(-1) };

function showHelp() {
  const rows = KEYS.map(([key, text]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, text)]);
  const dialog = el('dialog', { id: 'keys', 'aria-labelledby': 'keys-title' }, el('h2', { id: 'keys-title' }, 'Keyboard'), el('dl', {}, rows),
    el('form', { method: 'dialog' }, el('button', {}, 'Close')));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// --- light and dark -------------------------------------------------------------------------------------------------

function remembered() {
  try {
    return localStorage.getItem('aslfast-theme');
  } catch {
    return null; // a page from disk may have no storage
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  redrawCharts();
}

function switchTheme() {
  const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  setTheme(theme);
  try {
    localStorage.setItem('aslfast-theme', theme);
  } catch { /* not remembered then */ }
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say('Copied.');
  } catch {
    say(`Copy the address: ${location.href}`);
  }
  setTimeout(() => say(''), 2000);
}

// --- a live page ----------------------------------------------------------------------------------------------------

let newer = null; // the run with what came since, which no view shows yet
let loadedVersion = '';
let liveMessage = '';
const FOLLOWING = ['', 'round', 'time']; // these views move by themselves; in the others somebody is reading

function sayLive(text, ...more) {
  const shown = document.getElementById('status').textContent;
  if (text) say(el('span', {}, text, ...more));
  else if (liveMessage && shown.startsWith(liveMessage)) say('');
  liveMessage = text;
}

async function follow() {
  try {
    const version = await (await fetch('data/version', { cache: 'no-store' })).text();
    if (version !== loadedVersion) {
      newer = await new Run(0).load();
      loadedVersion = newer.version;
    }
    if (newer && FOLLOWING.includes(readHash().path[0]) && !document.activeElement?.closest('input, select')) render(true);
    if (newer) sayLive('The run went on. ', el('button', { type: 'button', on: { click: refresh } }, 'Show it (u)'));
    else sayLive('');
  } catch (error) {
    const gone = error instanceof TypeError; // of fetch: no answer at all
    sayLive(gone ? 'The server does not answer: aslfast watch has ended. What is shown is the last that came.' : error.message);
  }
  setTimeout(follow, LIVE_EVERY_MS);
}

async function refresh() {
  if (!LIVE) return;
  newer ??= await new Run(0).load();
  loadedVersion = newer.version;
  sayLive('');
  render(true);
}

// a live page may be opened before the run's first round is finished
async function opened(run) {
  for (;;) {
    try {
      const loaded = await run.load();
      say('');
      return loaded;
    } catch (error) {
      if (!LIVE) throw error;
      say(`Waiting for the run: ${error.message}`);
      await new Promise((done) => setTimeout(done, LIVE_EVERY_MS));
    }
  }
}

// two folders of one name are told apart by a number
function nameRuns() {
  if (runs.length > 1 && runs[0].name === runs[1].name) runs.forEach((run, i) => { run.name += ` (${i + 1})`; });
}

async function start() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  setTheme(remembered() ?? (dark ? 'dark' : 'light'));
  const count = LIVE ? 1 : document.querySelectorAll('script[id^="run-"][id$="-0"]').length;
  for (let number = 0; number < count; number++) runs.push(await opened(new Run(number)));
  addEventListener('hashchange', () => render());
  addEventListener('keydown', onKey);
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    document.getElementById('main').focus();
  });
  document.getElementById('theme').addEventListener('click', switchTheme);
  document.getElementById('help').addEventListener('click', showHelp);
  document.getElementById('copy').addEventListener('click', copyLink);
  document.getElementById('search').addEventListener('submit', (event) => {
    event.preventDefault();
    location.hash = here(['trajectories'], { q: document.getElementById('search-text').value });
  });
  nameRuns();
  render();
  loadedVersion = runs[0].version;
  if (LIVE) follow();
}

start().catch((error) => say(error));
