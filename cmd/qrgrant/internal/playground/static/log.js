// The exchanges as they happen, and the fourteen steps that they are.
import { $, ask, el, trouble } from './dom.js';

const steps = [
  'The PC asks', 'The server makes an id', 'and a picture', 'The PC shows it', 'The PC waits', 'The phone scans', 'and says who it is',
  'Marked as scanned', 'The person is asked', 'The PC is told', 'The person confirms', 'Marked as confirmed', 'The PC gets tokens', 'Signed in',
];
const actors = { pc: 'PC', phone: 'Phone', app: 'Web app', browser: 'Browser', other: 'Other' };
const rows = new Map();
let begun = 0;

// follow shows what the server sends, for ever.
export async function follow() {
  $('steps').replaceChildren(...steps.map((text, i) => el('li', { id: 'step-' + (i + 1) },
    el('span', { class: 'circle', 'aria-hidden': 'true' }, String(i + 1)), el('span', {}, text), el('span', { class: 'unseen state' }))));
  $('minor').addEventListener('change', () => $('entries').classList.toggle('all', $('minor').checked));
  $('clear').addEventListener('click', () => {
    for (const row of rows.values()) row.remove();
    mark(null);
    $('nothing').hidden = false;
  });
  let since = 0;
  for (;;) {
    try {
      const reply = await ask('/exchanges?since=' + since);
      if (reply.status === 401) {
        trouble('Open the address that qrgrant dev has printed last, with everything behind the #.');
        return;
      }
      if (!reply.ok) throw new Error('status ' + reply.status);
      trouble('');
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (text + value).split('\n\n');
        text = blocks.pop();
        for (const block of blocks) {
          if (!block.startsWith('data: ')) continue;
          const entry = JSON.parse(block.slice(6));
          since = Math.max(since, entry.revision);
          show(entry);
        }
      }
    } catch {
      trouble('qrgrant dev does not answer. Start it again and open the address that it prints.');
    }
    await new Promise(resolve => setTimeout(resolve, 2000));
  }
}

// show adds an exchange, or what has become of one.
function show(entry) {
  // A web page asks for a new picture every ten seconds; only what follows an earlier sign-in is another one.
  const another = entry.path === '/device_authorization' || $('step-6').classList.contains('done');
  if (entry.steps?.includes(1) && entry.id > begun && another) {
    begun = entry.id;
    mark(null);
  }
  if (entry.id >= begun) entry.steps?.forEach(mark);
  const list = $('list');
  const atEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
  const before = rows.get(entry.id);
  const row = draw(entry, before?.querySelector('details')?.open);
  if (before) before.replaceWith(row);
  else $('entries').append(row);
  rows.set(entry.id, row);
  if (rows.size > 400) {
    const [oldest] = rows.keys();
    rows.get(oldest).remove();
    rows.delete(oldest);
  }
  $('nothing').hidden = true;
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function mark(step) {
  for (const [i, item] of [...$('steps').children].entries()) {
    if (step !== null && i + 1 !== step) continue;
    item.classList.toggle('done', step !== null);
    item.querySelector('.state').textContent = step === null ? '' : ', done';
  }
}

function draw(entry, open) {
  const message = Boolean(entry.of);
  const range = ranges(entry.steps ?? []);
  const status = entry.status ? String(entry.status) : '…';
  const kind = entry.open ? 'waiting' : entry.status < 400 ? 'good' : entry.steps?.length ? 'waiting' : 'bad';
  const summary = el('summary', {},
    el('span', { class: 'step' }, range && el('span', { class: 'chip' }, el('span', { class: 'unseen' }, 'step '), range)),
    el('span', { class: 'actor ' + entry.actor }, actors[entry.actor] ?? entry.actor),
    message
      ? el('span', { class: 'what' }, el('span', { class: 'arrow' }, '← '), el('strong', {}, entry.event), el('span', { class: 'small' }, ' by ', entry.path))
      : el('span', { class: 'what' }, el('strong', {}, entry.method), ' ', short(entry.path)),
    !message && el('span', { class: 'status ' + kind }, entry.open && entry.status ? status + ' open' : entry.open ? 'held' : status),
    el('span', { class: 'time' }, new Date(entry.at).toLocaleTimeString([], { hour12: false }) + (message || entry.open ? '' : ` · ${entry.millis} ms`)));
  const details = el('details', { open },
    summary,
    !message && el('pre', { class: 'sent' }, entry.method + ' ' + entry.path + '\n' + (entry.request ?? []).join('\n')),
    entry.status > 0 && el('pre', {}, [entry.status, ...entry.answer ?? []].join('\n')),
    message && el('pre', {}, (entry.answer ?? []).join('\n').trim()));
  return el('li', { class: [entry.minor && 'minor', message && 'message'].filter(Boolean).join(' '), 'data-path': entry.path.split('?')[0], 'data-id': entry.id }, details);
}

// ranges writes 5, 9, 10 as 5, 9–10.
function ranges(numbers) {
  const runs = [];
  for (const n of numbers) {
    if (runs.length && runs.at(-1).at(-1) === n - 1) runs.at(-1).push(n);
    else runs.push([n]);
  }
  return runs.map(run => run.length > 1 ? run[0] + '–' + run.at(-1) : String(run[0])).join(', ');
}

const short = path => {
  const [way, query] = path.split('?');
  return query ? el('span', {}, way, el('span', { class: 'small' }, '?…')) : way;
};
