// The page: the two sides know of each other only what a person could carry across, the QR code.
import { key, trouble } from './dom.js';
import { follow } from './log.js';
import { start } from './pc.js';
import { open } from './phone.js';

if (key) {
  const phone = open();
  start(payload => phone.inSight(payload));
  follow();
} else {
  trouble('Open the address that qrgrant dev has printed, with everything behind the #.');
}
// Another key is another page.
addEventListener('hashchange', () => location.reload());
