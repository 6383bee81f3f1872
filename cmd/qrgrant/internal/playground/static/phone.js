// The phone: the example application in a frame of its own origin, told what its camera would see.
import { $, ask, phone, trouble } from './dom.js';

// open shows the application. What it returns is told which code is on the screen on the left.
export function open() {
  const frame = $('phone');
  const scan = $('scan');
  const hint = $('phone-hint');
  let signedIn = null;
  let payload = '';

  const tell = message => frame.contentWindow.postMessage(message, phone);
  const look = () => {
    scan.disabled = !signedIn || !payload;
    if (signedIn === null) hint.textContent = 'The phone is starting …';
    else if (!signedIn) hint.textContent = 'Choose “Sign in” on the phone. Alice’s password is typed for you, on the server’s own page.';
    else if (!payload) hint.textContent = 'Alice is signed in. The PC shows no code now.';
    else hint.textContent = 'No camera is needed: the button gives the phone the text of the code that it would see.';
  };
  scan.addEventListener('click', () => tell({ type: 'scan', text: payload }));

  // The application's sign-in may not stand in a frame, so the server side walks through it, as a
  // browser of the system does for an app. The code is worth nothing without the app's verifier.
  const authorize = async address => {
    const reply = await ask('/sign-in', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ address }) }).catch(() => null);
    if (!reply?.ok) {
      trouble('The phone could not be signed in. Open it in a tab of its own, or start qrgrant dev again.');
      return;
    }
    trouble('');
    tell({ type: 'returned', address: (await reply.json()).address });
  };

  addEventListener('message', event => {
    if (event.origin !== phone || event.source !== frame.contentWindow) return;
    if (event.data?.type === 'state') signedIn = event.data.signedIn === true;
    else if (event.data?.type === 'authorize' && typeof event.data.address === 'string') authorize(event.data.address);
    look();
  });
  frame.src = phone + '/';
  look();
  return {
    inSight(text) {
      payload = text;
      look();
    },
  };
}
