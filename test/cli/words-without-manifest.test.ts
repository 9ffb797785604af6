import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, test } from 'vitest';
import { restoreCommand } from '../../cli/restore.ts';
import { inWordsOf, type Namer } from '../../cli/words-without-manifest.ts';
import { BackupError, ERRORS, type ErrorCode } from '../../core/errors.ts';
import { runProcess } from '../support/processes.ts';
import { makeTempDir } from '../support/temp.ts';

const root = join(import.meta.dirname, '../..');
const NAMERS: readonly Namer[] = ['drop-in', 'restore'];
/** Fields of manifests, and what only they are about. */
const OF_MANIFESTS =
  /destinationPath|endpointURL|endpointCA|[a-z0-9]Credentials\b|inheritFrom|storageKey|storageSasToken|serverName|\bmanifest\b|\bSecrets?\b|the secret\b(?! access key)|the worker/;
/** What can't happen without a manifest, or without Temporal. */
const ELSEWHERE: readonly ErrorCode[] = [
  'manifest-invalid',
  'cluster-unknown',
  'schedule-unknown',
  'secret-missing',
  'temporal-unavailable',
  'worker-missing',
  'agent-unavailable',
];

/** Every hint, and every text that may be one, of a folder's sources. */
function hintsOf(folder: string, names?: readonly string[]): { where: string; text: string }[] {
  return readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.ts') && (names === undefined || names.includes(name)))
    .flatMap((name) => {
      const source = readFileSync(join(root, folder, name), 'utf8');
      const found = source.matchAll(/\bhint:\s*(?:own \?\? )?(['"`])((?:\\.|(?!\1).)*)\1/g);
      return [...found].map(([, , text = '']) => ({ where: `${folder}/${name}`, text }));
    });
}

const hints = [
  ...hintsOf('stores'),
  ...hintsOf('repository'),
  ...hintsOf('operations', ['archive-wal.ts', 'wal-file.ts', 'fetch-wal.ts', 'restore.ts']),
  ...Object.entries(ERRORS)
    .filter(([code]) => !ELSEWHERE.some((other) => other === code))
    .map(([where, { hint }]) => ({ where, text: hint })),
];

function say(namer: Namer, message: string, hint: string): string {
  const error = inWordsOf(namer, new BackupError('config-invalid', message, { hint }));
  return error instanceof BackupError ? `${error.message}; ${error.hint}` : '';
}

describe('what is said without a manifest', () => {
  test.for(NAMERS)('to %s names no field of one, whatever store or repository says it', (namer) => {
    expect(hints.length).toBeGreaterThan(60);
    // Otherwise there would be nothing to put in other words.
    expect(hints.filter(({ text }) => OF_MANIFESTS.test(text)).length).toBeGreaterThan(10);
    const left = hints
      .map(({ where, text }) => `${where}: ${say(namer, 'x', text)}`)
      .filter((line) => OF_MANIFESTS.test(line))
      // by a manifest is the only way to Azure's keys
      .filter((line) => !(namer === 'restore' && line.includes('give a manifest by -f')));
    expect(left).toEqual([]);
  });

  test.for([
    [
      'https://s3 knows no such access key id: correct the secret that holds it',
      'https://s3 knows no such access key id: correct AWS_ACCESS_KEY_ID, or the profile',
      'https://s3 knows no such access key id: correct AWS_ACCESS_KEY_ID, or the profile',
    ],
    [
      'the secret access key is not the one that http://127.0.0.1:9000 knows: correct the secret',
      'the secret access key is not the one that http://127.0.0.1:9000 knows: correct AWS_SECRET_ACCESS_KEY, or the profile',
      'the secret access key is not the one that http://127.0.0.1:9000 knows: correct AWS_SECRET_ACCESS_KEY, or the profile',
    ],
    [
      's3Credentials.inheritFromIAMRole, or no s3Credentials, wants an identity of this host: give the machine a role; else give accessKeyId and secretAccessKey, without a manifest AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
      'without keys an identity of this host is wanted: give the machine a role; else set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
      'without keys an identity of this host is wanted: give the machine a role; else set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY',
    ],
    [
      'set it: s3Credentials.region in the manifest, or AWS_REGION; a server that is not AWS needs endpointURL',
      'set it: AWS_DEFAULT_REGION or AWS_REGION; a server that is not AWS needs --endpoint-url',
      'set it: AWS_REGION; a server that is not AWS needs --endpoint-url',
    ],
    [
      'create the bucket at AWS, or correct destinationPath or endpointURL; nothing was changed',
      'create the bucket at AWS, or correct the URL or the endpoint; nothing was changed',
      'create the bucket at AWS, or correct --repository or --endpoint-url; nothing was changed',
    ],
    [
      'give googleCredentials.applicationCredentials, set GOOGLE_APPLICATION_CREDENTIALS for the worker, or run it where a metadata server answers',
      'set GOOGLE_APPLICATION_CREDENTIALS, or run it where a metadata server answers',
      'set GOOGLE_APPLICATION_CREDENTIALS, or run it where a metadata server answers',
    ],
    [
      'mount it, or create it, or correct destinationPath',
      'mount it, or create it, or correct the URL',
      'mount it, or create it, or correct --repository',
    ],
    [
      ERRORS['wal-foreign'].hint,
      'this archive belongs to another cluster: give this one its own SERVER_NAME',
      'this archive belongs to another cluster: give this one its own --server-name',
    ],
  ] as const)('%s', ([hint, inDropIn, inRestore]) => {
    expect(say('drop-in', 'x', hint)).toBe(`x; ${inDropIn}`);
    expect(say('restore', 'x', hint)).toBe(`x; ${inRestore}`);
  });

  it('keeps code and cause, and leaves alone what has no other words', () => {
    const plain = new BackupError('store-full', 'full');
    expect(inWordsOf('drop-in', plain)).toBe(plain);
    const other = new Error('destinationPath');
    expect(inWordsOf('drop-in', other)).toBe(other);
    const bad = new BackupError(
      'config-invalid',
      'the secret of storageSasToken is no shared access signature',
    );
    expect(inWordsOf('drop-in', bad)).toMatchObject({
      code: 'config-invalid',
      message: 'AZURE_STORAGE_SAS_TOKEN is no shared access signature',
      cause: bad,
    });
  });

  it('is what the drop-ins and restore --repository say of a directory that is not there, and of a file that is not', async () => {
    const gone = `file://${makeTempDir('gone')}/not-mounted`;
    const segment = '000000010000000000000001';
    const run = (program: string, ...args: string[]) =>
      runProcess(join(root, `scripts/walkeep-cloud-wal-${program}`), args, {
        cwd: makeTempDir('pgdata'),
        env: { PATH: process.env['PATH'] },
      });
    const fetched = await run('restore', gone, 'srv', segment, 'pg_wal/RECOVERYXLOG');
    expect(fetched.stderr).toContain('mount it, or create it, or correct the URL');
    const pushed = await run('archive', gone, 'srv', `pg_wal/${segment}`);
    expect(pushed.stderr).toContain('check WAL_PATH, which is %p');
    const args = ['--repository', gone, '--server-name', 'srv', '--plan'];
    await expect(restoreCommand().parseAsync(args, { from: 'user' })).rejects.toMatchObject({
      hint: 'mount it, or create it, or correct --repository',
    });
  }, 60_000);
});
