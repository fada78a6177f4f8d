// Shows GET /status every two seconds. Everything is written as text, never as markup.
"use strict";

const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);
const say = (id, text, kind = "") => {
  byId(id).textContent = text;
  byId(id).className = kind;
};
const count = (number) => number.toLocaleString("en");
const size = (mb) => `${mb < 10 ? mb.toFixed(1) : Math.round(mb)} MiB`;
const rate = (perSecond) => `${perSecond.toFixed(1)}/s`;

function time(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86400)} days`;
}

function showTroubles(s) {
  const wrong = Object.entries(s.alert_details).map(([name, a]) => `${name}, for ${time(a.for_s)}: ${a.detail}`);
  const known = Object.values(s.alert_details).map((a) => a.detail);
  const others = [...s.failing, ...s.unready].filter((reason) => !known.some((detail) => reason.includes(detail)));
  byId("troubles").replaceChildren(
    ...[...others, ...wrong].map((words) => {
      const item = document.createElement("li");
      item.textContent = words;
      return item;
    }),
  );
}

function show(s) {
  document.title = `${s.edge_device_id}: Holdfast device`;
  say("device", s.edge_device_id);
  if (!s.healthy) say("verdict", "failing", "bad");
  else if (!s.ready) say("verdict", "not ready", "wait");
  else say("verdict", s.alerts.length ? "ready, with alerts" : "ready", s.alerts.length ? "wait" : "good");
  showTroubles(s);

  say("model", s.model_version ? `${s.model} ${s.model_version}` : "not loaded");
  say("frames", `${count(s.frames)}, ${rate(s.frames_per_s)}`);
  say("inference", `${s.inference_ms.toFixed(1)} ms`);
  say("skipped", `${count(s.skipped)}, ${count(s.unreadable)}`);

  const kinds = { up: "good", down: "bad", refused: "bad" };
  say("link", `${s.link.state} for ${time(s.link.for_s)}${s.link.reason ? ` (${s.link.reason})` : ""}`,
    kinds[s.link.state] || "wait");
  say("pending", `${count(s.pending)} (${count(s.in_flight)} in hand)`);
  say("oldest", s.oldest_pending_age_s === null ? "nothing waits" : `${time(s.oldest_pending_age_s)} old`);
  say("sent", `${count(s.sent)}, ${rate(s.delivered_per_s)}`);
  say("failed", count(s.failed), s.failed ? "bad" : "");
  say("error", s.last_error ? `${time(s.last_error_age_s)} ago: ${s.last_error}` : "none");
  byId("drain").hidden = !s.recovery_active;
  if (s.recovery_active) {
    byId("drained").value = s.recovery_sent / Math.max(1, s.recovery_sent + s.pending);
    const eta = s.recovery_eta_s === null ? "" : `, through in ${time(s.recovery_eta_s)}`;
    say("drain-words", `${count(s.recovery_sent)} sent, ${rate(s.recovery_per_s)}${eta}`);
  }

  say("disk", `${size(s.size_mb)} of ${size(s.capacity_mb)} (${Math.round(s.capacity_percent)} %)`);
  byId("used").value = s.capacity_percent;
  say("full", s.full_in_s === null ? "no growth seen" : time(s.full_in_s));
  say("accepted", `${count(s.last_seq)}, ${rate(s.accepted_per_s)}`);
  say("recovered", count(s.recovered_at_start));
  say("at", `as of ${new Date().toLocaleTimeString()}`);
}

let shown = -1;
async function showFrame(frames) {
  if (frames === 0 || frames === shown) return;
  const answer = await fetch("frame.jpg");
  if (!answer.ok) {
    say("no-frame", answer.status === 403 ? "Frames are shown on the device itself only." : "No frame yet.");
    return;
  }
  const before = byId("frame").src;
  byId("frame").src = URL.createObjectURL(await answer.blob());
  URL.revokeObjectURL(before);
  byId("frame").hidden = false;
  byId("no-frame").hidden = true;
  shown = frames;
}

async function look() {
  try {
    const status = await (await fetch("status")).json();
    show(status);
    await showFrame(status.frames);
  } catch {
    say("verdict", "does not answer", "bad");
  }
  setTimeout(look, document.hidden ? 5 * EVERY_MS : EVERY_MS);
}

look();
