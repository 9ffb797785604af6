import { Command } from 'commander';
import { stringify } from 'yaml';
import { BackupError } from '../core/errors.ts';
import { checkRepository } from '../operations/check-repository.ts';
import { describeRepository } from '../operations/describe-repository.ts';
import { formatCheckItems } from './check-items.ts';
import { EXIT } from './exit-codes.ts';
import { withHost } from './host.ts';
import { outputOption } from './options.ts';
import { listRepository } from './repository-list.ts';
import { formatDescription } from './repository-show.ts';
import {
  addRepositoryOptions,
  openNamedRepository,
  type FoundRepository,
  type RepositoryFlags,
} from './repository-source.ts';
import { note, printable } from './output.ts';

/** `walkeep repository` */
export function repositoryCommand(): Command {
  return new Command('repository')
    .summary('check a repository, list what lies in it, or show what it is')
    .description(
      'Needs the repository and its keys only: no Temporal, no worker, no PostgreSQL.\n' +
        'It is that of an applied Cluster, of one in -f FILE, or the one that --repository names.',
    )
    .addCommand(checkCommand())
    .addCommand(listCommand())
    .addCommand(showCommand());
}

const CLUSTER = 'NAME or NAMESPACE/NAME of an applied Cluster, or of one in -f';

interface CheckFlags extends RepositoryFlags {
  readonly readOnly?: true;
  readonly output?: 'json';
}

function checkCommand(): Command {
  const command = new Command('check')
    .summary('item by item: keys, what the store can do, whose it is, what lies there')
    .description(
      'Tries what the key may and what the store does, with tiny objects below walkeep/probe/ that are removed again, and keeps\n' +
        'the answer in walkeep/store.json. Changes nothing else. Exit code 11 when there is a problem.',
    )
    .argument('[cluster]', CLUSTER)
    .option('--read-only', 'write nothing: what the store can do is told as it was found last')
    .addOption(outputOption(['json']));
  return addRepositoryOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep repository check production-postgres\n' +
        '  walkeep repository check --repository s3://backups/postgres --server-name production-postgres --read-only\n',
    )
    .action(async (cluster: string | undefined, flags: CheckFlags) => {
      await withRepository(
        cluster,
        flags,
        async ({ repository, destinationPath, isNamed = false }, signal) => {
          const readOnly = flags.readOnly === true;
          const now = new Date();
          const options = { signal, readOnly, destinationPath, mustExist: isNamed, now };
          const items = await checkRepository(repository, options);
          process.stdout.write(
            flags.output === 'json'
              ? `${JSON.stringify(items, undefined, 2)}\n`
              : formatCheckItems(items, 'this repository is not as it should be'),
          );
          if (items.some(({ state }) => state === 'problem')) process.exitCode = EXIT.findings;
        },
      );
    });
}

interface ListFlags extends RepositoryFlags {
  readonly long?: true;
  readonly output?: 'json';
}

function listCommand(): Command {
  const command = new Command('ls')
    .summary('what lies there: backups, WAL by timeline, histories, ours, strangers')
    .argument('[cluster]', `${CLUSTER}; with --repository and --server-name this is PREFIX`)
    .argument(
      '[prefix]',
      'only what begins so, below the folder of the cluster, such as wals/0000000100000003',
    )
    .option('-l, --long', 'the objects, with size and the store’s time')
    .addOption(outputOption(['json']));
  return addRepositoryOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep repository ls production-postgres\n  walkeep repository ls production-postgres base/ -l\n' +
        '  walkeep repository ls --repository file:///srv/backups --server-name production-postgres wals/ -l\n',
    )
    .action(async (first: string | undefined, second: string | undefined, flags: ListFlags) => {
      const isNamed = flags.repository !== undefined && flags.serverName !== undefined;
      if (isNamed && second !== undefined)
        throw new BackupError('usage', '--server-name names the folder already: give PREFIX alone');
      const [cluster, prefix = ''] = isNamed ? [undefined, first] : [first, second];
      requirePrefix(prefix, isNamed);
      await withRepository(cluster, flags, async ({ repository }, signal) => {
        await listRepository(repository, prefix, flags, signal);
      });
    });
}

const FOLDERS = ['base/', 'wals/', 'walkeep/'];

function requirePrefix(prefix: string, isNamed: boolean): void {
  if (/^\/|\/\/|^\.\.?\/|\/\.\.?\//.test(prefix)) {
    const fix = prefix.split('/').filter((part) => !['', '.', '..'].includes(part));
    throw new BackupError('usage', `no key begins with "${prefix}"`, {
      hint: `write ${fix.join('/') || 'base'}${prefix.endsWith('/') ? '/' : ''}: PREFIX is below the folder of the cluster`,
    });
  }
  // check and show take the name of a cluster there
  if (isNamed && !FOLDERS.some((folder) => folder.startsWith(prefix) || prefix.startsWith(folder))) {
    throw new BackupError(
      'usage',
      `"${prefix}" is taken for PREFIX, because --server-name names the folder`,
      {
        hint: `leave it out; PREFIX is the beginning of ${FOLDERS.join(', ')} or of what lies there`,
      },
    );
  }
}

interface ShowFlags extends RepositoryFlags {
  readonly output?: 'json' | 'yaml';
}

function showCommand(): Command {
  const command = new Command('show')
    .summary('whose it is, how large, what the store can do, what barman-cloud would see')
    .argument('[cluster]', CLUSTER)
    .addOption(outputOption(['json', 'yaml']));
  return addRepositoryOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep repository show production-postgres\n  walkeep repository show production-postgres -o yaml\n',
    )
    .action(async (cluster: string | undefined, flags: ShowFlags) => {
      await withRepository(cluster, flags, async ({ repository }, signal) => {
        const found = await describeRepository(repository, signal);
        if (flags.output === 'json') process.stdout.write(`${JSON.stringify(found, undefined, 2)}\n`);
        else if (flags.output === 'yaml') process.stdout.write(asYaml(found));
        else process.stdout.write(printable(formatDescription(found)));
      });
    });
}

async function withRepository(
  cluster: string | undefined,
  flags: RepositoryFlags,
  work: (found: FoundRepository, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const interrupted = new AbortController();
  // A probe removes its objects also then.
  const stop = () => interrupted.abort(new Error('interrupted'));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    await withHost(flags, async (host) => {
      const found = await openNamedRepository(host, cluster, flags);
      try {
        await work(found, interrupted.signal);
      } finally {
        await found.repository.close();
      }
    });
  } catch (error) {
    if (!interrupted.signal.aborted) throw error;
    note('walkeep: interrupted');
    process.exitCode = EXIT.interrupted;
  } finally {
    process.removeListener('SIGINT', stop).removeListener('SIGTERM', stop);
  }
}

/** Older readers take a bare `yes` or `off` for a truth value. */
function asYaml(value: unknown): string {
  return stringify(value, { version: '1.1' });
}
