import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MARK } from '../../scripts/lib/quickstart/processes.ts';
import { onCleanUp } from '../support/cleanup.ts';
import { freePort, type Outcome, runProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { availableMajors, describeWith, postgresBin, repositoryRoot, toolPath } from '../support/tools.ts';

const PROOF = /PROVEN: orders 1 to 40 are there/;
const MINUTES_4 = 240_000;

/** A scratch folder of a test's own; whatever happens, nothing that was started there stays. */
function makeScratch(): string {
  const parent = mkdtempSync(join(tmpdir(), 'wkq-'));
  const scratch = join(parent, 'q');
  mkdirSync(scratch);
  giveToServerUser(scratch);
  giveToServerUser(parent);
  onCleanUp(async () => {
    await quickstart(scratch, '--stop');
    for (const pid of processesOf(scratch)) process.kill(pid, 'SIGKILL');
    rmSync(parent, { recursive: true, force: true, maxRetries: 3 });
  });
  return scratch;
}

/** As a person runs it: no CI in the environment, and none of the variables of other servers. */
async function quickstart(scratch: string, ...words: string[]): Promise<Outcome> {
  return quickstartWith({}, scratch, ...words);
}

async function quickstartWith(
  variables: NodeJS.ProcessEnv,
  scratch: string,
  ...words: string[]
): Promise<Outcome> {
  const { CI: _, ...environment } = process.env;
  return runProcess(join(repositoryRoot, 'scripts/quickstart'), ['--scratch', scratch, ...words], {
    env: { ...environment, NO_COLOR: '1', PGHOST: '/nowhere', TEMPORAL_ADDRESS: '127.0.0.1:1', ...variables },
    timeoutMs: MINUTES_4,
  });
}

/** Every process that works in the folder or carries the quickstart's mark of it. */
function processesOf(scratch: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const marks = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
        return (
          marks.includes(`WALKEEP_QUICKSTART=${scratch}`) ||
          readlinkSync(`/proc/${pid}/cwd`).startsWith(scratch)
        );
      } catch {
        return false; // it has ended
      }
    });
}

function expectProof({ code, stdout, stderr }: Outcome): void {
  expect(`${stdout}\n${stderr}\nexit code ${code}`).toMatch(PROOF);
  expect(stdout).toMatch(/shop-first +\S+ +shop +barmanObjectStore +completed/);
  expect(stdout).toMatch(/before-the-accident +\S+ +shop +barmanObjectStore +completed/);
  expect(stdout).toMatch(/recovery stopping before/);
  expect(stdout).not.toMatch(/^\s+at .*\(.*:\d+:\d+\)/m); // no stack trace
  expect(code).toBe(0);
}

describe('quickstart', () => {
  const scratch = makeScratch();

  it(
    'brings a database back to a moment between two transactions, and leaves it and Temporal to be looked at',
    { timeout: MINUTES_4 },
    async () => {
      const outcome = await quickstart(scratch);
      expectProof(outcome);
      const [, address] = /Web UI +(http:\S+)/.exec(outcome.stdout) ?? [];
      expect((await fetch(address!)).status).toBe(200);
      const [, running = ''] = /still running +(.*)/.exec(outcome.stdout) ?? [];
      for (const [, pid] of running.matchAll(/\(pid (\d+)\)/g))
        expect(processesOf(scratch)).toContain(Number(pid));
      expect(running.match(/\w+ \(pid/g)).toEqual(['worker (pid', 'postgres (pid', 'temporal (pid']);
    },
  );

  it(
    'run again, ends what it left and starts anew; with --no-keep nothing stays',
    { timeout: MINUTES_4 },
    async () => {
      const before = processesOf(scratch);
      const outcome = await quickstart(scratch, '--no-keep');
      expect(outcome.stdout).toMatch(/the quickstart before this one had left: worker, postgres, temporal/);
      expectProof(outcome);
      expect(
        before.filter((pid) => existsSync(`/proc/${pid}`) && processesOf(scratch).includes(pid)),
      ).toEqual([]);
      expect(processesOf(scratch)).toEqual([]);
    },
  );

  it(
    'when a step fails, says what and where to look, and leaves nothing running',
    { timeout: MINUTES_4 },
    async () => {
      // A program of the PATH that a step needs, and that does not work: Temporal runs already by then.
      const bin = makeTempDir('bin');
      writeFileSync(join(bin, 'seq'), '#!/bin/sh\necho "seq: broken by a test" >&2\nkill -9 $$\n', {
        mode: 0o755,
      });
      const failing = makeScratch();
      const outcome = await quickstartWith({ PATH: `${bin}:${process.env['PATH']}` }, failing);
      expect(outcome.code).toBe(1);
      expect(outcome.stdout).toMatch(/FAILED: .*seq/);
      expect(outcome.stdout).toMatch(/Stopped what had been started: postgres, temporal/);
      expect(processesOf(failing)).toEqual([]);
    },
  );

  it('--stop leaves a process alone that got the number of an earlier one', async () => {
    const other = makeScratch();
    const stranger = spawn('sleep', ['60'], { stdio: 'ignore' });
    onCleanUp(() => void stranger.kill('SIGKILL'));
    writeFileSync(join(other, '.walkeep-quickstart'), '');
    mkdirSync(join(other, 'pids'));
    writeFileSync(join(other, 'pids/worker'), `${stranger.pid} 12345\n`);
    for (const name of ['.walkeep-quickstart', 'pids', 'pids/worker']) giveToServerUser(join(other, name));
    const outcome = await quickstart(other, '--stop');
    expect(outcome.stdout).toMatch(/Nothing of a quickstart is running/);
    expect(stranger.exitCode ?? stranger.signalCode).toBeNull();
  });

  it('refuses a folder that holds something else', async () => {
    const full = makeScratch();
    writeFileSync(join(full, 'precious'), 'x');
    const outcome = await quickstart(full, '--no-keep');
    expect(outcome.code).toBe(1);
    expect(outcome.stderr).toMatch(/is not empty and not of an earlier quickstart/);
    expect(readdirSync(full)).toEqual(['precious']);
  });
});

describe('docs/quickstart.md', () => {
  it('has commands that do what it says, one after another', { timeout: MINUTES_4 }, async () => {
    const home = makeTempDir('doc');
    const page = readFileSync(join(repositoryRoot, 'docs/quickstart.md'), 'utf8');
    const [setUp, ...blocks] = [...page.matchAll(/```sh\n(.*?)```/gs)].map(([, commands]) => commands!);
    expect(setUp).toBe('./scripts/setup quickstart\n');
    const [major] = availableMajors();
    const ports = new Map([
      [7233, await freePort()],
      [8233, await freePort()],
      [9188, await freePort()],
    ]);
    const script = `export HOME='${home}'\ncd '${repositoryRoot}'\n${blocks.join('')}`
      .replaceAll(/\b(7233|8233|9188)\b/g, (port) => String(ports.get(Number(port))))
      .replaceAll('/usr/lib/postgresql/15/bin', postgresBin(major!));
    const { code, stdout, stderr } = await runProcess('bash', ['-e', '-o', 'pipefail', '-c', script], {
      user: serverUser,
      env: { PATH: process.env['PATH'], WALKEEP_TEMPORAL: toolPath('temporal'), [MARK]: home },
      timeoutMs: MINUTES_4,
    });
    onCleanUp(() => processesOf(home).forEach((pid) => process.kill(pid, 'SIGKILL')));
    expect(`${stdout}\n${stderr}\nexit code ${code}`).toMatch(/40 \| +1 \| +40 \|/);
    expect(code).toBe(0);
  });
});

describeWith('versitygw', 'quickstart with an S3 server', () => {
  it('does the same with backups in a bucket, its keys in a Secret', { timeout: MINUTES_4 }, async () => {
    const scratch = makeScratch();
    const outcome = await quickstart(scratch, '--store', 's3', '--no-keep');
    expectProof(outcome);
    const keys = readFileSync(join(scratch, 's3.env'), 'utf8');
    const [, secret = ''] = /SECRET_KEY=(\S+)/.exec(keys) ?? [];
    expect(secret).toHaveLength(40);
    expect(outcome.stdout + outcome.stderr).not.toContain(secret);
    expect(processesOf(scratch)).toEqual([]);
  });
});
