// The linked devices: every sign-in that this person approved, and its end.
import { revokeAll, revokeSession, sessions } from './api.js';
import { Fault } from './ask.js';
import { el, language, say, show, t } from './dom.js';
import { drop } from './oauth.js';
import { tell } from './outer.js';

// devices shows the list. said is what has just been done.
export async function devices(said) {
  const back = el('p', {}, el('a', { id: 'back', href: '/' }, t('back')));
  show(t('devices'), el('p', { id: 'loading' }, t('loading')), back);
  let list;
  try {
    list = (await sessions()).sessions;
  } catch (fault) {
    if (!(fault instanceof Fault) || fault.over) throw fault;
    show(t('devices'), el('p', { id: 'fault', class: 'fault' }, t(fault.key === 'offline' || fault.key === 'no_sessions' ? fault.key : 'server_error')), back);
    return;
  }
  show(t('devices'),
    said && el('p', { id: 'done', class: 'notice' }, said),
    list.length === 0 ? el('p', { id: 'none' }, t('no_devices')) : el('ul', { class: 'devices' }, list.map(item)),
    lost(), back);
  if (said) say(said);
}

const date = text => text && new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'short' }).format(typeof text === 'number' ? text * 1000 : new Date(text));

function item(session) {
  const name = session.client.name || session.client.id;
  const approver = session.approved_by?.client?.name ?? session.approved_by?.name ?? session.approved_by?.device;
  const line = (key, value) => value && el('span', { class: 'small' }, t(key, value));
  return el('li', { 'data-sid': session.sid },
    el('div', {}, el('strong', {}, name), session.new && [' ', el('span', { class: 'badge' }, t('new'))], session.current && [' ', el('span', { class: 'badge' }, t('current'))]),
    el('span', {}, session.device ?? ''),
    line('place', [session.city, session.address].filter(Boolean).join(', ')),
    line('since', date(session.created_at)), line('last_used', date(session.last_used)), line('approved_by', approver),
    !session.current && asking('revoke', t('revoke_name', name), async () => {
      await revokeSession(session.sid);
      await devices(t('revoked', name));
    }));
}

function lost() {
  return el('section', { 'aria-labelledby': 'lost-title' }, el('h2', { id: 'lost-title' }, t('lost_title')), el('p', {}, t('lost_text')),
    asking('lost_phone', undefined, async () => {
      await revokeAll();
      // What is kept here died with the rest; asking with it would only say "signed out".
      await drop();
      tell({ type: 'state', signedIn: false });
      show(t('devices'), el('p', { id: 'done', class: 'notice' }, t('lost_done')), el('p', {}, el('a', { id: 'back', href: '/' }, t('back'))));
      say(t('lost_done'));
    }));
}

// asking is a button that asks once more in its own place before it does what it says.
function asking(id, label, work) {
  const place = el('div', { class: 'buttons' });
  const error = el('p', { class: 'fault', role: 'alert', hidden: true });
  const first = el('button', { type: 'button', class: id, 'aria-label': label, click: () => {
    const yes = el('button', { type: 'button', class: id + '-yes danger', click: async () => {
      yes.disabled = true;
      try {
        await work();
      } catch (fault) {
        if (fault.over) location.assign('/');
        yes.disabled = false;
        error.hidden = false;
        error.textContent = t(fault.key === 'offline' || fault.key === 'no_sessions' ? fault.key : 'server_error');
      }
    } }, t(id + '_yes'));
    const no = el('button', { type: 'button', click: () => {
      place.replaceChildren(first);
      first.focus();
    } }, t('keep'));
    place.replaceChildren(no, yes, error);
    no.focus();
  } }, t(id));
  place.append(first);
  return place;
}
