// For browsers in which the module of the sign-in page does not run: too old, or it was not
// loaded. The frame that looks again by itself takes the place of the code.
(function () {
  'use strict';
  var live = document.getElementById('qr-live');
  // The module ran before: scripts are run in the order of the page.
  if (!live || live.getAttribute('data-running')) { return; }
  var frame = document.createElement('iframe');
  frame.className = 'qr-frame';
  frame.src = live.getAttribute('data-frame');
  frame.title = document.getElementById('qr-title').textContent;
  live.parentNode.replaceChild(frame, live);
})();
