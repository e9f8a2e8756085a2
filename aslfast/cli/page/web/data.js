// The data of the page: gzipped JSON inside the file, or from the server of a live page. A chunk of texts is unpacked
// when somebody looks at it, and the ones that were looked at last stay.

const LIVE = document.getElementById('live').textContent === '1';
const CHUNKS_KEPT = 48;

async function unpack(buffer) {
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

function embedded(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

class Stale extends Error {}

// part 0 is the run's table, part k + 1 the texts of chunk k. A live page names the version of the table that it has: the
// server gives no other one's texts. Returns [bytes, version].
async function packedPart(run, part, version) {
  if (!LIVE) return [embedded(`run-${run}-${part}`), ''];
  const answer = await fetch(`data/${part}${part ? `?version=${version}` : ''}`, { cache: 'no-store' });
  if (answer.status === 409) throw new Stale('the run went on');
  if (!answer.ok) throw new Error(await answer.text());
  return [await answer.arrayBuffer(), answer.headers.get('X-Run-Version')];
}

class Run {
  constructor(number) {
    this.number = number;
    this.chunks = new Map();
  }

  async load() {
    const [packed, version] = await packedPart(this.number, 0);
    Object.assign(this, await unpack(packed), { version });
    this.count = this.kept;
    this.texts.lower = this.texts.map((text) => text.toLowerCase());
    this.isText = new Set(this.text_columns);
    this.rowOfKey = new Map();
    for (let i = 0; i < this.count; i++) this.rowOfKey.set(this.key(i), i);
    this.addAdvantages();
    return this;
  }

  get(column, i) {
    const value = this.table[column][i];
    return this.isText.has(column) && value !== null ? this.texts[value] : value;
  }

  key(i) {
    return `${this.files[this.table.file[i]]}.${this.table.step[i]}.${this.numberInStep(i)}`;
  }

  // of a row within its file and step: files of single steps and the phase's file give the same
  numberInStep(i) {
    this.places ??= this.placesInSteps();
    return this.places[i];
  }

  placesInSteps() {
    const seen = new Map();
    return Array.from({ length: this.kept }, (_, i) => {
      const step = `${this.files[this.table.file[i]]}.${this.table.step[i]}`;
      const place = seen.get(step) ?? 0;
      seen.set(step, place + 1);
      return place;
    });
  }

  // trajectories of one task in one step are a group; their advantage here is the reward minus the group's mean
  addAdvantages() {
    this.groups = new Map();
    this.groupOf = Array.from({ length: this.count }, (_, i) => {
      const name = `${this.files[this.table.file[i]]}.${this.table.step[i]}.${this.table.task_id[i]}`;
      if (!this.groups.has(name)) this.groups.set(name, []);
      this.groups.get(name).push(i);
      return name;
    });
    this.table.advantage = new Array(this.count).fill(null);
    for (const rows of this.groups.values()) {
      const rewarded = rows.filter((i) => this.table.reward[i] !== null);
      const average = mean(rewarded.map((i) => this.table.reward[i]));
      for (const i of rewarded) this.table.advantage[i] = this.table.reward[i] - average;
    }
  }

  // turns, tokens, references, parts of the reward, ids of passages
  async body(i) {
    let number = 0; // of the last chunk that starts at or before it
    for (let step = 1 << 20; step; step >>= 1) if (this.starts[number + step] <= i) number += step;
    return (await this.chunkOf(number))[i - this.starts[number]];
  }

  async chunkOf(number) {
    const { chunks } = this;
    const loaded = chunks.get(number) ?? packedPart(this.number, number + 1, this.version).then(([packed]) => unpack(packed));
    chunks.delete(number); // the one that was looked at last is the last to go
    chunks.set(number, loaded);
    loaded.catch(() => chunks.delete(number));
    if (chunks.size > CHUNKS_KEPT) chunks.delete(chunks.keys().next().value);
    return loaded;
  }

  // of a judge's row: the verdict is not the label; of any other: it was paid as right and matches no reference, or
  // the other way round
  disagrees(i) {
    const { match, task_reward: rewards } = this.table;
    if (match[i] === null || (rewards[i] === null && !this.isVerdict(i))) return false;
    return this.isVerdict(i) ? !match[i] : rewards[i] >= 0.5 !== Boolean(match[i]);
  }

  isVerdict(i) {
    return this.get('role', i).startsWith('grm');
  }

  // rounds and roles that the monitor's alarms name; an alarm without a role is the whole round's
  hasAlarm(i) {
    const line = this.rounds.find((each) => each.round === this.table.round[i]);
    const role = this.get('role', i);
    return (line?.alarms ?? []).some(({ name }) => !name.includes(' of the ') || name.endsWith(` of the ${role}`));
  }

  // rows about a question: those that were asked it, and the one that wrote it
  about(question) {
    const code = this.texts.indexOf(question);
    if (code < 0 || !question) return [];
    const found = [];
    for (let i = 0; i < this.count; i++) {
      if (this.table.question[i] === code || this.table.output[i] === code) found.push(i);
    }
    return found;
  }
}
