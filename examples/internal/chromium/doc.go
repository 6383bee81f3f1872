// Package chromium drives a real browser in tests: a headless Chromium with a fresh profile, in
// which every Page is a browser of its own (cookies apart). It finds chromium,
// chromium-browser or google-chrome on PATH; without one a test is skipped, and fails where the
// environment variable CI is set.
//
// A Page keeps every console error, uncaught exception and violation of a content security
// policy, and fails its test at the end for each that the test did not Expect. Every wait has a
// limit and watches the page; nothing sleeps for a fixed time. Selectors are CSS and reach into
// frames of the same origin.
//
// Environment: QRGRANT_SCREENSHOTS is a directory where Page.Screenshot leaves its pictures;
// QRGRANT_AXE is the path of axe.min.js for Axe.
package chromium
