/**
 * The quickstart: a PostgreSQL that walkeep protects, destroys, and brings back to a moment between two known
 * transactions. scripts/quickstart calls it, after the set-up and as the user that PostgreSQL may run as.
 *
 *     quickstart.ts run SCRATCH --store directory|s3 --keep yes|no [--postgres MAJOR] [--instead-of-root]
 *     quickstart.ts stop SCRATCH [--quiet]
 */
import { userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import { createShell, StepFailed, type Shell } from './lib/quickstart/commands.ts';
import { lastLines, preparePlace, type Place } from './lib/quickstart/place.ts';
import { Services, type Service } from './lib/quickstart/processes.ts';
import { createSteps } from './lib/quickstart/steps.ts';
import { answer, heading, say, seconds } from './lib/quickstart/terminal.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    store: { type: 'string', default: 'directory' },
    keep: { type: 'string', default: 'yes' },
    postgres: { type: 'string' },
    'instead-of-root': { type: 'boolean', default: false },
    'started-by': { type: 'string', default: './scripts/quickstart' },
    quiet: { type: 'boolean', default: false },
  },
});
const [verb = '', scratch = ''] = positionals;
const services = new Services(scratch);
/** Under this name the script itself is among its processes while it is at work. */
const OWN = 'quickstart';

if (verb === 'stop') await stop();
else process.exitCode = await run();

async function stop(): Promise<void> {
  const stopped = await services.stopAll();
  if (values.quiet) return;
  for (const { name, pid } of stopped) say(`stopped ${name} (pid ${pid})`);
  if (stopped.length === 0) say('Nothing of a quickstart is running.');
  else say(`Its files stay in ${scratch}; remove that folder when you have seen enough.`);
}

/** @returns the exit code */
async function run(): Promise<number> {
  const began = performance.now();
  const earlier = await services.stopAll();
  if (earlier.length > 0) say(`Stopped what the quickstart before this one had left: ${namesOf(earlier)}.`);
  services.record(OWN, process.pid);
  let shell: Shell | undefined;
  const interrupted = endOnSignals(() => shell?.interrupt());
  try {
    const store = values.store === 's3' ? 's3' : 'directory';
    const { postgres: major } = values;
    const place = await preparePlace({ scratch, store, ...(major !== undefined && { major }) });
    shell = createShell(scratch, place.environment);
    introduce(place);
    const steps = createSteps({ place, shell, services });
    for (const [index, step] of steps.entries()) {
      heading(`${index + 1}/${steps.length}  ${step.title}`);
      say(step.why);
      await step.take();
    }
    say(`\nAll of this took ${seconds(performance.now() - began)}, without the set-up.`);
    await leave(place);
    return 0;
  } catch (error) {
    await interrupted();
    explain(error);
    await stopEverything();
    return 1;
  } finally {
    services.forget(OWN);
  }
}

function namesOf(stopped: readonly Service[]): string {
  return stopped.map(({ name }) => name).join(', ');
}

async function stopEverything(): Promise<void> {
  const stopped = await services.stopAll();
  if (stopped.length > 0)
    say(`Stopped what had been started: ${namesOf(stopped)}. The files stay in ${scratch}.`);
}

/** @returns for whoever meets a failure: if a signal caused it, this never returns, and the signal ends the process */
function endOnSignals(interrupt: () => void): () => Promise<void> {
  let came = false;
  const end = async (): Promise<void> => {
    say('\nInterrupted.');
    await stopEverything();
    services.forget(OWN);
    process.exit(130);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (came) return;
      came = true;
      interrupt();
      void end();
    });
  }
  return async () => {
    if (came) await new Promise(() => {});
  };
}

function introduce({ major, environmentFile }: Place): void {
  const { username } = userInfo();
  say('');
  say(
    `This runs a PostgreSQL ${major}, protects it, destroys it, and brings it back to a moment of your choice.`,
  );
  say(`Everything it makes lies in ${scratch}.`);
  if (values['instead-of-root'])
    say(`PostgreSQL refuses to run as root, so all of it runs as the user ${username}.`);
  const shell = values['instead-of-root']
    ? `in a shell of that user (su -s /bin/bash ${username}), after `
    : 'in your own shell, after ';
  say(`Each command is printed before it runs; to repeat one, type it ${shell}\`. ${environmentFile}\`.`);
}

function explain(error: unknown): void {
  say('');
  say(`FAILED: ${error instanceof Error ? error.message : String(error)}`);
  if (!(error instanceof StepFailed)) {
    if (process.env['WALKEEP_DEBUG'] && error instanceof Error) say(error.stack ?? '');
    return;
  }
  if (error.advice) say(`What to do: ${error.advice}`);
  const logs = [error.log, ...silentDeaths()].filter((log): log is string => log !== undefined);
  for (const log of new Set(logs)) {
    say(`The end of ${log}:`);
    for (const line of lastLines(log, 12)) answer(readable(line));
  }
}

/** A line of a log for people: of walkeep's JSON only what happened, when, and why. */
function readable(line: string): string {
  try {
    const { level, time, msg, error } = JSON.parse(line) as {
      level?: string;
      time?: string;
      msg?: string;
      error?: { message?: string };
    };
    return `${time?.slice(11, 19) ?? ''} ${level ?? ''} ${msg ?? ''}${error?.message === undefined ? '' : `: ${error.message}`}`;
  } catch {
    return line.length > 300 ? `${line.slice(0, 300)} …` : line;
  }
}

/** The logs of services that should run and don't. */
function silentDeaths(): string[] {
  return services.ended().map((name) => `${scratch}/logs/${name}.log`);
}

/** What stays, where it is, and how it ends; or all of it ended. */
async function leave({ ports, store, environmentFile }: Place): Promise<void> {
  heading('What there is now');
  const command = values['started-by'];
  if (values.keep === 'no') {
    const stopped = await services.stopAll();
    say(`  stopped           ${stopped.map(({ name, pid }) => `${name} (pid ${pid})`).join(', ')}`);
    say(
      `  files             ${scratch}: ${store === 's3' ? 's3/backups' : 'repository'} (the backups), restored, shop.yaml, logs`,
    );
  } else {
    say(`  Web UI            http://127.0.0.1:${ports.ui}/namespaces/default/workflows`);
    say(`  restored database (. ${environmentFile}; psql)`);
    say(
      `  files             ${scratch}: ${store === 's3' ? 's3/backups' : 'repository'} (the backups), restored, shop.yaml, logs`,
    );
    say(
      `  still running     ${services
        .running()
        .map(({ name, pid }) => `${name} (pid ${pid})`)
        .join(', ')}`,
    );
    say(`  stop all of it    ${command} --stop${isDefaultPlace() ? '' : ` --scratch ${scratch}`}`);
  }
  say(`  read next         docs/quickstart.md: the same by hand; README.md; docs/ARCHITECTURE.md`);
}

function isDefaultPlace(): boolean {
  return (
    scratch.endsWith('/walkeep-quickstart') &&
    (scratch.startsWith('/var/lib/') || scratch.includes('/.local/state/'))
  );
}
