import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { freePort, type Process, startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeEachMajor, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import {
  backupManifest,
  type BackupStatus,
  createMachine,
  type Machine,
  startSite,
  type Site,
  type Worker,
} from '../support/walkeep.ts';

const MINUTE = 60_000;
const newKey = (): string => randomBytes(32).toString('base64');

/** A key file as an operator writes it, for the user that walkeep runs as. */
function keyFile(...lines: string[]): string {
  const file = join(makeTempDir('keys'), 'keys');
  writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 });
  giveToServerUser(file);
  return file;
}

/** One story, told in order. */
describeEachMajor(
  'what Temporal stores is encrypted',
  (major) => {
    const [key, later] = [newKey(), newKey()];
    let plain: TemporalServer;
    let site: Site;
    let worker: Worker;
    let codecServer: Process;
    let endpoint: string;

    /** The same Temporal, for processes that have this key file. */
    const withKeys = (file: string): TemporalServer => ({
      ...plain,
      environment: { ...plain.environment, WALKEEP_PAYLOAD_KEY_FILE: file },
    });
    /** What anybody who may read the server's database sees of a run: also what is in base64. */
    async function history(workflowId: string, ...args: string[]): Promise<string> {
      const text = await plain.cli('workflow', 'show', '-w', workflowId, '-o', 'json', ...args);
      const data = [...text.matchAll(/"data": *"([^"]*)"/g)].map(([, base64 = '']) =>
        Buffer.from(base64, 'base64').toString('latin1'),
      );
      return [text, ...data].join('\n');
    }
    const decoded = (): string[] => ['--codec-endpoint', endpoint];
    const start = async (workflowId: string, input: object) =>
      plain.cli(
        ...'workflow start --type baseBackup --task-queue walkeep'.split(' '),
        '-w',
        workflowId,
        '--input',
        JSON.stringify(input),
      );
    const startWorker = async (machine: Machine): Promise<Worker> =>
      machine.startWorker({ cluster: 'main', instance: 'main-1', pgdata: site.postgres.dataDirectory });
    /** The same host with other keys. */
    const machineWith = (file: string): Machine => {
      return createMachine({ temporal: withKeys(file), postgres: site.postgres, state: site.machine.state });
    };

    beforeAll(async () => {
      plain = await startTemporal();
      site = await startSite({ temporal: withKeys(keyFile(`first=${key}`)), major });
      ({ worker } = site);
      const port = await freePort();
      endpoint = `http://127.0.0.1:${port}`;
      const env = { ...process.env, WALKEEP_PAYLOAD_KEY: `later=${later}\nfirst=${key}` };
      codecServer = startProcess(
        join(repositoryRoot, 'scripts/walkeep'),
        ['codec-server', '--listen', `127.0.0.1:${port}`],
        { env, user: serverUser },
      );
      await until('the codec server to listen', () => codecServer.output().includes(endpoint));
    }, 3 * MINUTE);

    it('S1: histories hold nothing of manifests, results and failures; ids, types and search attributes stay readable', async () => {
      const status = await site.backup('one');
      expect(status.phase).toBe('completed');
      for (const workflowId of ['cluster/default/main', 'backup/default/one', 'wal-archiving/default/main']) {
        const text = await history(workflowId);
        expect(text.includes(Buffer.from('binary/encrypted').toString('base64')), workflowId).toBe(true);
        const shown = ['barmanObjectStore', 'destinationPath', 'file://', status.beginWal, status.backupId];
        expect(shown.filter((word) => text.includes(word))).toEqual([]);
      }
      expect(await history('backup/default/one')).toContain('WalkeepCluster');
      const listed = await plain.cli('workflow', 'list', '--query', "WalkeepBackup = 'one'", '-o', 'json');
      expect(listed).toContain('backup/default/one');
    });

    it('the temporal command line shows them with the codec endpoint', async () => {
      expect(await history('cluster/default/main', ...decoded())).toContain('destinationPath');
      const page = await plain.cli('workflow', 'metadata', '-w', 'cluster/default/main', ...decoded());
      expect(page).toContain('main-1');
      await expect(plain.cli('workflow', 'metadata', '-w', 'cluster/default/main')).rejects.toThrow(
        /metadata/,
      );
    });

    it('walkeep’s own commands read and write as before', async () => {
      expect(await site.machine.succeed('status', 'main')).toContain('main');
      expect(await site.machine.succeed('logs', 'main')).toContain('completed');
    });

    it('a workflow started with plain JSON runs beside them; its result and its failure are encrypted', async () => {
      await start('backup/default/by-json', { cluster: 'main', immediateCheckpoint: true });
      const result = await plain.cli(
        'workflow',
        'result',
        '-w',
        'backup/default/by-json',
        '-o',
        'json',
        ...decoded(),
      );
      expect((JSON.parse(result) as { result: BackupStatus }).result).toMatchObject({ phase: 'completed' });

      await start('backup/default/wrong', { cluster: 7 });
      await until('it to fail', async () =>
        (await history('backup/default/wrong')).includes('EXECUTION_FAILED'),
      );
      const hidden = await history('backup/default/wrong');
      expect(hidden).toContain('Encoded failure');
      expect(hidden).toContain('input-invalid');
      expect(hidden).not.toContain('field \\"cluster\\"');
      expect(await history('backup/default/wrong', ...decoded())).toContain('field \\"cluster\\"');
    });

    it('without the key, or with another, commands say so and change nothing', async () => {
      for (const [file, has] of [
        [keyFile(`other=${newKey()}`), 'this process has "other"'],
        [keyFile(`first=${newKey()}`), 'can\'t be decrypted with the key "first"'],
      ] as const) {
        const { code, stderr } = await machineWith(file).walkeep(
          'backup',
          'main',
          '--name',
          'never',
          '--wait',
        );
        expect(stderr).toContain(has);
        expect(code).toBe(7);
      }
      await expect(plain.cli('workflow', 'describe', '-w', 'backup/default/never')).rejects.toThrow(
        /not found/,
      );
    });

    it('a worker with another key takes no work, says so, and archives', async () => {
      await worker.stop();
      const wrong = await startWorker(machineWith(keyFile(`other=${newKey()}`)));
      await until('it to say what is wrong', () =>
        wrong.process.output().includes('is encrypted with the key'),
      );
      expect(wrong.process.output()).toContain('this process has \\"other\\"');
      expect(await wrong.isReady()).toBe(false);
      await site.postgres.waitUntilArchived(await site.postgres.switchWal());
      await wrong.stop();
      worker = await startWorker(site.machine);
      await worker.waitUntilReady();
    });

    it('F2: what is written with a key that the worker does not have yet waits for it, and nothing else does', async () => {
      const rotated = machineWith(keyFile(`later=${later}`, `first=${key}`));
      await rotated.succeed('backup', 'main', '--name', 'early', '--immediate-checkpoint');
      await until('the worker to say so', () => worker.process.output().includes('the key \\"later\\"'));
      await start('backup/default/meanwhile', { cluster: 'main', immediateCheckpoint: true });
      await plain.cli('workflow', 'result', '-w', 'backup/default/meanwhile');

      await worker.stop();
      worker = await startWorker(rotated);
      await worker.waitUntilReady();
      const early = await plain.cli(
        'workflow',
        'result',
        '-w',
        'backup/default/early',
        '-o',
        'json',
        ...decoded(),
      );
      expect((JSON.parse(early) as { result: BackupStatus }).result).toMatchObject({ phase: 'completed' });
      expect(await rotated.apply(...site.manifests, backupManifest('declared', 'main'))).toContain(
        'backup.postgresql.cnpg.io/declared created',
      );
      await until('it to be taken', async () =>
        (await rotated.succeed('get', 'backups')).match(/declared.*completed/),
      );
      const ids = [
        ...(await history('backup/default/declared')).matchAll(/"encryption-key-id": *"([^"]*)"/g),
      ];
      expect(new Set(ids.map(([, id = '']) => Buffer.from(id, 'base64').toString()))).toEqual(
        new Set(['later']),
      );
    });

    it('S1: no log and no command line holds a key', async () => {
      for (const { pid } of [worker.process, codecServer]) {
        const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        expect(argv).toMatch(/cli\/main/);
        for (const secret of [key, later]) expect(argv).not.toContain(secret);
      }
      for (const text of [site.worker.process.output(), worker.process.output(), codecServer.output()])
        for (const secret of [key, later]) expect(text).not.toContain(secret);
    });
  },
  [15],
);
