/**
 * Measures what walkeep costs in Temporal, and ends with 1 when that is more than it may be: 500 events a backup, and
 * 1,000 billable actions a day and cluster, heartbeats counted. The workflows are the real ones, on a development
 * server, with activities that do nothing; a day is reckoned from them by the default intervals.
 */
import { Client, Connection } from '@temporalio/client';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { clusterManifest } from '../test/workflows/fake-cluster.ts';
import { keeperPace } from '../workflows/keeper-agenda.ts';
import { newKeeper } from '../workflows/keeper-state.ts';
import { REPORT_EVERY_MS } from '../workers/temporal-link.ts';
import { paceFrom } from '../workers/pace.ts';
import { temporalSettings } from '../workers/temporal-settings.ts';
import { costOf, type RunCost } from './lib/billable-actions.ts';
import { costOfADay, type Assumptions, type Measured } from './lib/cost-of-a-day.ts';
import { measureCosts } from './lib/measure-costs.ts';

const MOST_EVENTS = 500;
const MOST_ACTIONS = 1_000;
const USAGE = `Usage: scripts/cost [--instances N] [--backup-minutes N] [--verification-minutes N] [--looks N] [--json]
       scripts/cost --history FILE…                     what recorded runs cost (temporal workflow show -o json)
       scripts/cost --workflow-id ID…                   what runs on the server of TEMPORAL_ADDRESS cost

Without arguments: runs each workflow once on a development server (about a minute), and prints what a day of one cluster
costs with a daily backup, hourly reports of archiving, sweeps, audits and a weekly verification. Ends with 1 when a
backup has more than ${MOST_EVENTS} events, or the day more than ${MOST_ACTIONS} billable actions.
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    history: { type: 'boolean' },
    'workflow-id': { type: 'boolean' },
    instances: { type: 'string', default: '3' },
    'backup-minutes': { type: 'string', default: '60' },
    'verification-minutes': { type: 'string', default: '60' },
    looks: { type: 'string', default: '20' },
    json: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  },
});

if (values.help || (positionals.length > 0 && !values.history && !values['workflow-id'])) {
  process.stdout.write(USAGE);
  process.exitCode = values.help ? 0 : 2;
} else if (values.history) {
  printRuns(positionals.map((file) => ({ name: file, cost: costOf(readHistory(file)) })));
} else if (values['workflow-id']) {
  printRuns(await readRuns(positionals));
} else {
  process.exitCode = printDay(await measureCosts(), assumptions());
}
// What a measurement opened was closed; nothing is worth waiting for.
process.stdout.write('', () => process.exit());

function readHistory(file: string) {
  return historyFromJSON(JSON.parse(readFileSync(file, 'utf8'))).events ?? [];
}

async function readRuns(ids: readonly string[]): Promise<{ name: string; cost: RunCost }[]> {
  const { connectionOptions, temporalNamespace } = temporalSettings();
  const connection = await Connection.connect(connectionOptions);
  const client = new Client({ connection, namespace: temporalNamespace });
  const runs = ids.map(async (name) => {
    const { events } = await client.workflow.getHandle(name).fetchHistory();
    return { name, cost: costOf(events ?? []) };
  });
  const read = await Promise.all(runs);
  await connection.close();
  return read;
}

function printRuns(runs: readonly { readonly name: string; readonly cost: RunCost }[]): void {
  for (const { name, cost } of runs) {
    const kinds = Object.entries(cost.byKind).map(([kind, count]) => `${count} ${kind}`);
    process.stdout.write(`${name}: ${cost.events} events, ${cost.actions} actions (${kinds.join(', ')})\n`);
  }
}

/** By the defaults of a worker and of a keeper that nobody told otherwise. */
function assumptions(): Assumptions {
  const pace = paceFrom({});
  return {
    instances: number(values.instances),
    backupSeconds: number(values['backup-minutes']) * 60,
    verificationSeconds: number(values['verification-minutes']) * 60,
    heartbeatTimeoutSeconds: pace.heartbeat,
    archivingReportSeconds: pace.archivingReport,
    archivingBeatSeconds: 300,
    instanceReportSeconds: REPORT_EVERY_MS / 1000,
    auditSeconds: keeperPace(newKeeper(clusterManifest('any'), new Date().toISOString())).auditMs / 1000,
    looks: number(values.looks),
  };
}

/** @returns the exit code */
function printDay(measured: Measured, assumed: Assumptions): number {
  const rows = costOfADay(measured, assumed);
  const actions = Math.ceil(rows.reduce((sum, row) => sum + row.actions, 0));
  const isGood = measured.backupEvents <= MOST_EVENTS && actions <= MOST_ACTIONS;
  if (values.json) {
    const result = { backupEvents: measured.backupEvents, actionsADay: actions, isGood, assumed, rows };
    process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
    return isGood ? 0 : 1;
  }
  const text = (count: number) => (Number.isInteger(count) ? String(count) : count.toFixed(1));
  const columns: [string, string, string, string][] = [
    ['what', 'a day', 'actions each', 'actions a day'],
    ...rows.map(({ what, perDay, each, actions: all }): [string, string, string, string] => [
      what,
      text(perDay),
      text(each),
      text(all),
    ]),
  ];
  const widths = [0, 1, 2, 3].map((index) => Math.max(...columns.map((row) => (row[index] ?? '').length)));
  for (const row of columns) {
    const cells = row.map((cell, index) =>
      index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0),
    );
    process.stdout.write(`${cells.join('   ')}\n`);
  }
  process.stdout.write(
    `\nevents of a backup: ${measured.backupEvents} of at most ${MOST_EVENTS}\n` +
      `billable actions a day and cluster: ${actions} of at most ${MOST_ACTIONS}\n`,
  );
  return isGood ? 0 : 1;
}

function number(text: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0) return value;
  process.stderr.write(USAGE);
  process.exit(2);
}
