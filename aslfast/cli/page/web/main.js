// The page: its views by address, the keyboard, light and dark, and a live page's following of its run.

const runs = [];
const VIEWS = {
  '': ['Overview', overview], round: ['Rounds', roundView], trajectories: ['Trajectories', listView],
  time: ['Time', timeline], config: ['Configuration', configView],
};
const HIDDEN_VIEWS = { t: viewer, task: taskView, compare: compareView };
const KEYS = [
  ['/', 'search'], ['j, k', 'next, previous: in the list and in a trajectory'], ['Enter', 'open what is chosen in the list'], ['l', 'back to the list'],
  ['o, r, t, s, c', 'overview, rounds, trajectories, time (seconds), configuration'], ['d', 'light or dark'], ['?', 'this help'], ['Esc', 'close, or leave a field'],
];
const LIVE_EVERY_MS = 1000;

function say(text) {
  const status = document.getElementById('status');
  status.textContent = text instanceof Error ? `Cannot be shown: ${text.message}` : text;
  status.hidden = !text;
}

function changeQuery(changes) {
  const { path, query } = readHash();
  location.hash = hashOf(path, { ...Object.fromEntries(query), ...changes });
}

function render(keepPlace = false) {
  const { path, query } = readHash();
  const run = runs[Number(query.get('run') || 0)] ?? runs[0];
  const view = VIEWS[path[0]]?.[1] ?? HIDDEN_VIEWS[path[0]] ?? overview;
  if (path[0] === 'trajectories') {
    if (lastList !== location.hash) chosen = 0;
    lastList = location.hash;
  }
  const main = document.getElementById('main');
  const place = keepPlace ? [scrollX, scrollY] : [0, 0];
  main.replaceChildren(...runChoice(run, path, query), ...view(run, query, path[1]).flat(Infinity).filter(Boolean));
  nameTabs(path[0], run);
  document.getElementById('search-text').value = path[0] === 'trajectories' ? query.get('q') ?? '' : '';
  document.title = `${main.querySelector('h1')?.textContent ?? ''} – ${run.name}`;
  scrollTo(...place);
}

function nameTabs(current, run) {
  const tabs = Object.entries(VIEWS).map(([name, [title]]) => link(hashOf(name ? [name] : [], { run: run.number || '' }), title, { 'aria-current': name === current ? 'page' : null }));
  document.getElementById('tabs').replaceChildren(...tabs);
  document.getElementById('run-name').textContent = run.name;
}

function runChoice(run, path, query) {
  if (runs.length < 2 || path[0] === 'compare') return [];
  const links = runs.map((each) => link(hashOf(path, { ...Object.fromEntries(query), run: each.number || '' }), each.name, { 'aria-current': each === run ? 'page' : null }));
  return [el('nav', { class: 'pages', 'aria-label': 'Runs' }, links)];
}

// --- the keyboard ---------------------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === 'Escape') return typing ? event.target.blur() : closeHelp();
  if (typing) return;
  const inList = readHash().path[0] === 'trajectories';
  const act = {
    '/': () => document.getElementById('search-text').focus(), '?': showHelp, d: switchTheme,
    j: () => (inList ? moveChoice(1) : readHash().path[0] === 't' && turnPage(1)),
    k: () => (inList ? moveChoice(-1) : readHash().path[0] === 't' && turnPage(-1)),
    Enter: inList && event.target.tagName !== 'A' && event.target.tagName !== 'BUTTON' ? openChoice : null, l: () => { location.hash = lastList; },
    o: () => { location.hash = '#/'; }, r: () => { location.hash = '#/round'; }, t: () => { location.hash = '#/trajectories'; },
    s: () => { location.hash = '#/time'; }, c: () => { location.hash = '#/config'; },
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function showHelp() {
  const rows = KEYS.map(([key, text]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, text)]);
  const dialog = el('dialog', { id: 'keys', 'aria-labelledby': 'keys-title' }, el('h2', { id: 'keys-title' }, 'Keyboard'), el('dl', {}, rows),
    el('form', { method: 'dialog' }, el('button', {}, 'Close')));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

const closeHelp = () => document.getElementById('keys')?.close();

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

let shownVersion = '';

async function follow() {
  try {
    const version = await (await fetch('data/version', { cache: 'no-store' })).text();
    if (version !== shownVersion) {
      await runs[0].load();
      shownVersion = version;
      render(true);
    }
    say('');
  } catch {
    say('The server does not answer: aslfast watch has ended. What is shown is the last that came.');
  }
  setTimeout(follow, LIVE_EVERY_MS);
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
      say('No round is finished yet: waiting for the run.');
      await new Promise((done) => setTimeout(done, LIVE_EVERY_MS));
    }
  }
}

async function start() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  setTheme(remembered() ?? (dark ? 'dark' : 'light'));
  const count = LIVE ? 1 : document.querySelectorAll('script[id^="run-"][id$="-0"]').length;
  for (let number = 0; number < count; number++) runs.push(await opened(new Run(number)));
  addEventListener('hashchange', () => render());
  addEventListener('keydown', onKey);
  document.getElementById('theme').addEventListener('click', switchTheme);
  document.getElementById('help').addEventListener('click', showHelp);
  document.getElementById('copy').addEventListener('click', copyLink);
  document.getElementById('search').addEventListener('submit', (event) => {
    event.preventDefault();
    location.hash = hashOf(['trajectories'], { q: document.getElementById('search-text').value });
  });
  render();
  if (LIVE) follow();
}

start().catch((error) => say(error));
