// Elements and numbers. Every text of a run is untrusted: it becomes a text node, never markup.

function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name === 'vars') for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
    else if (name === 'class') node.className = value;
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const link = (hash, text, options = {}) => el('a', { href: hash, ...options }, text);
const number = (value, digits = 2) => (typeof value === 'number' ? value.toFixed(digits).replace(/^-(?=0\.?0*$)/, '').replace('-', '−') : '–');
const signed = (value, digits = 2) => (typeof value !== 'number' ? '–' : (value >= 0 ? '+' : '−') + Math.abs(value).toFixed(digits));
const percent = (value, digits = 1) => (typeof value !== 'number' ? '–' : `${(100 * value).toFixed(digits)}%`);
const whole = (value) => (typeof value !== 'number' ? '–' : value.toLocaleString('en-US'));
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? '' : 's'}`;

function clock(seconds) {
  const all = Math.round(seconds ?? 0);
  const parts = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  return parts[0] ? `${parts[0]} h ${parts[1]} min` : parts[1] ? `${parts[1]} min ${parts[2]} s` : `${parts[2]} s`;
}

// Okabe and Ito 2008, distinct with any kind of colour vision; roles of one's own take the ones that are left
const ROLE_COLOURS = new Map([['policy', '--policy'], ['grm', '--grm'], ['generator', '--generator']]);
const OTHER_COLOURS = ['--other-1', '--other-2', '--other-3', '--other-4', '--other-5'];
const roleName = (role) => (role === 'grm' ? 'judge' : role);

function roleColour(role, roles) {
  if (ROLE_COLOURS.has(role)) return ROLE_COLOURS.get(role);
  const others = roles.filter((each) => !ROLE_COLOURS.has(each));
  return OTHER_COLOURS[Math.max(0, others.indexOf(role)) % OTHER_COLOURS.length];
}

const roleBadge = (role, roles) =>
  el('span', { class: 'badge', vars: { '--own': `var(${roleColour(role, roles)})` } }, roleName(role));

const card = (title, value, note) =>
  el('div', { class: 'card' }, el('dt', {}, title), el('dd', {}, value), note ? el('dd', { class: 'note' }, note) : null);

function table(heads, rows, caption) {
  const line = (cells, tag) =>
    el('tr', {}, cells.map((cell) => el(tag, { class: typeof cell === 'string' && /^[+−–\d]/.test(cell) ? 'figure' : null, scope: tag === 'th' ? 'col' : null }, cell)));
  return el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption },
    el('table', {}, el('caption', {}, caption), el('thead', {}, line(heads, 'th')), el('tbody', {}, rows.map((row) => line(row, 'td')))));
}

// #/view?key=value: the address of everything that is shown
function readHash() {
  const [, path, query] = /^#?\/?([^?]*)\??(.*)$/s.exec(location.hash);
  return { path: path.split('/').map(decoded), query: new URLSearchParams(query) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a link that was cut
  }
}

function hashOf(path, query = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const tail = new URLSearchParams(filled).toString();
  return `#/${path.map(encodeURIComponent).join('/')}${tail ? `?${tail}` : ''}`;
}
