// The approval card: who asks, from where, for what, and the verdict (deny first).
import { decide } from './api.js';
import { button, el, known, language, show, t } from './dom.js';

// card shows what the provider says about a claimed session. then has what leads on: done when
// it is over, home, and again to scan anew.
export function card(answer, then) {
  const { context } = answer;
  const boxes = context.scopes.map(scope => el('input', { type: 'checkbox', value: scope.name, checked: true, disabled: scope.name === 'openid' }));
  const error = el('p', { id: 'card-error', class: 'fault', role: 'alert', hidden: true });
  const code = codeField(answer);
  const approve = el('button', { id: 'approve', type: 'submit', disabled: !code.ready() }, t('approve'));
  code.field?.addEventListener('input', () => { approve.disabled = !code.ready(); });
  const shown = new AbortController();
  const send = async decision => {
    const request = { confirm_handle: answer.confirm_handle, decision, context_digest: answer.context_digest };
    if (decision === 'approve') {
      Object.assign(request, code.members());
      const ticked = boxes.filter(box => box.checked).map(box => box.value);
      if (ticked.length < boxes.length) request.scope = ticked.join(' ');
    }
    error.hidden = true;
    try {
      const { state } = await retried(request);
      if (shown.signal.aborted) return;
      shown.abort();
      await then.done();
      result(state === 'approved' ? 'approved' : decision === 'report' ? 'reported' : 'denied', answer, then);
    } catch (fault) {
      if (!shown.signal.aborted) await refused(fault, { error, code, approve, then, over: () => shown.abort() });
    }
  };
  // The provider forgets the claim then.
  const timer = setTimeout(async () => {
    shown.abort();
    await then.done();
    ended('gone', then);
  }, answer.expires_in * 1000);
  shown.signal.addEventListener('abort', () => clearTimeout(timer));

  let sending = false;
  show(t('card_title'),
    el('p', { class: 'warning' }, el('strong', {}, t('other_device')), ' ', t('deny_if')),
    facts(context),
    boxes.length > 0 && el('fieldset', {}, el('legend', {}, t('scopes')), boxes.map((box, i) => el('label', { class: 'tick' }, box, el('span', {}, scopeText(context.scopes[i]))))),
    context.warnings.length > 0 && el('ul', { id: 'warnings', class: 'warning' }, context.warnings.map(id => el('li', {}, known(id) ? t(id) : id))),
    el('div', { class: 'buttons' }, button('deny', () => send('deny'), 'primary'), button('report', () => send('report'))),
    el('form', {
      id: 'decide',
      submit: async event => {
        event.preventDefault();
        if (sending || approve.disabled) return;
        sending = true;
        await send('approve');
        sending = false;
      },
    },
    code.elements, error, el('div', { class: 'buttons' }, approve)));
}

// A denial may be sent twice. An approval may not: if the answer to a wrong number was lost, the
// second would cost another try.
async function retried(request) {
  try {
    return await decide(request);
  } catch (fault) {
    if (fault.key !== 'offline' || request.decision === 'approve') throw fault;
    return decide(request);
  }
}

const scopeText = scope => known('scope_' + scope.name) ? t('scope_' + scope.name) : scope.text;

function facts(context) {
  const { client, device, network, relying_party: party } = context;
  const row = (id, ...value) => [el('dt', {}, t(id)), el('dd', { id: 'fact-' + id }, ...value)];
  const place = [network.name, network.city, network.address, t('distance_' + network.distance)].filter(Boolean);
  return el('dl', {},
    row('who', el('strong', {}, client.name), ' ', el('span', { class: 'small' }, '(' + t('verified_' + client.verified) + ')')),
    party && row('leads_to', party.name, ' ', el('span', { class: 'small' }, '(' + party.origin + ')')),
    row('door', t('door_' + context.door, context.issuer)),
    row('device', device.description,
      known('device_' + device.known) && [' ', el('span', { class: 'small' }, '(' + t('device_' + device.known) + ')')],
      device.name_untrusted && [el('br'), el('span', { class: 'small' }, t('calls_itself', device.name_untrusted))]),
    row('where', place.join(', ')),
    row('asked', ago(context.age_seconds)),
    context.resources && row('resources', context.resources.join(' ')),
    context.binding_message && row('message', context.binding_message),
    context.user_code && row('their_code', el('strong', { class: 'code' }, context.user_code)),
    row('consequence', t('consequence_of', context)));
}

const ago = seconds => {
  const format = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });
  return seconds < 90 ? format.format(-seconds, 'second') : format.format(-Math.round(seconds / 60), 'minute');
};

// codeField is what an approval needs from the other screen: the number, the code, or a look.
function codeField(answer) {
  if (answer.check_code_required) {
    const field = el('input', { id: 'check_code', type: 'text', inputmode: 'numeric', maxlength: '2', autocomplete: 'off', class: 'code', 'aria-describedby': 'check-hint' });
    const digits = () => field.value.normalize('NFKC').trim();
    return {
      field, ready: () => /^[1-9][0-9]$/.test(digits()), members: () => ({ check_code: digits() }),
      elements: [el('label', { for: 'check_code' }, t('check_code')), field, el('p', { id: 'check-hint', class: 'small' }, t('check_hint'))],
    };
  }
  if (answer.user_code_required) {
    const field = el('input', { id: 'user_code', type: 'text', autocomplete: 'off', autocapitalize: 'characters', spellcheck: 'false', class: 'code' });
    const letters = () => field.value.normalize('NFKC').toUpperCase().replace(/[^BCDFGHJKLMNPQRSTVWXZ]/g, '');
    return {
      field, ready: () => letters().length === 8, members: () => ({ user_code: letters() }),
      elements: [el('label', { for: 'user_code' }, t('user_code')), field],
    };
  }
  if (answer.context.user_code) {
    const field = el('input', { id: 'same_code', type: 'checkbox' });
    return {
      field, ready: () => field.checked, members: () => ({}),
      elements: [el('label', { class: 'tick same' }, field, el('span', {}, t('same_code', answer.context.user_code)))],
    };
  }
  return { ready: () => true, members: () => ({}), elements: [] };
}

// refused says why the verdict did not count. While the card still holds it stays.
async function refused(fault, { error, code, approve, then, over }) {
  const tries = fault.detail?.tries_left;
  const stays = ['offline', 'server_error', 'invalid_request'].includes(fault.key) || fault.key === 'check_code_mismatch' && tries > 0;
  if (!stays) {
    over();
    await then.done();
    ended(fault.key === 'check_code_mismatch' ? 'no_tries' : fault.key, then);
    return;
  }
  error.hidden = false;
  error.textContent = fault.key === 'check_code_mismatch' ? t('mismatch', tries) : t(fault.key);
  if (fault.key === 'check_code_mismatch') {
    code.field.value = '';
    approve.disabled = true;
  }
  (code.field ?? approve).focus();
}

function ended(key, then) {
  show(t('ended'), el('p', { id: 'fault', class: 'fault' }, t(known(key) ? key : 'gone')),
    el('div', { class: 'buttons' }, button('scan_again', then.again, 'primary'), button('home', then.home)));
}

function result(outcome, answer, then) {
  const undo = async () => {
    try {
      await retried({ confirm_handle: answer.confirm_handle, decision: 'report' });
      result('reported', answer, then);
    } catch (fault) {
      show(t('failed'), el('p', { id: 'fault', class: 'fault' }, t(fault.key === 'offline' ? 'offline' : 'too_late')),
        el('div', { class: 'buttons' }, el('a', { href: '/devices', class: 'button' }, t('devices')), button('home', then.home)));
    }
  };
  show(t(outcome + '_title'), el('p', { id: 'result', class: outcome }, t(outcome, answer.context.client.name)),
    el('div', { class: 'buttons' }, button('home', then.home, 'primary'), outcome === 'approved' && button('undo', undo)));
}
