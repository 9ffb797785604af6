import { resolve } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import type { ArchiveTarget } from '../operations/archive-source.ts';
import type { FetchSource } from '../operations/cluster-archive.ts';
import type { WalArguments } from './wal-arguments.ts';

/** What the full clients open; each opens only what it needs, since their start is most of their time. */
export interface WalContext {
  /** @throws BackupError `cluster-unknown` and what opening says */
  openArchive(cluster: string): Promise<Omit<ArchiveTarget, 'revision'>>;
  /** The archive of a cluster, for a standby of it. */
  openStandbySource(cluster: string): Promise<FetchSource>;
  /** @param path of the file that a restore wrote */
  openRecoverySource(path: string): Promise<FetchSource>;
}

export async function openWalContext(args: WalArguments): Promise<WalContext> {
  const { findStateDirectory, openStateDirectory, requireCluster } =
    await import('../operations/state-directory.ts');
  const { createSecretResolver } = await import('../operations/secret-resolver.ts');
  const archives = await import('../operations/cluster-archive.ts');
  const environment =
    args.secrets === undefined ? process.env : { ...process.env, WALKEEP_SECRETS_DIR: resolve(args.secrets) };
  const stateDirectory =
    args.state === undefined ? await findStateDirectory(environment) : resolve(args.state);
  const state = openStateDirectory(stateDirectory);
  const resolver = createSecretResolver({ stateDirectory, environment });
  const readManifest = async (cluster: string) =>
    (await requireCluster(state, ...parseCluster(cluster))).manifest;

  return {
    openArchive: async (cluster) => archives.openArchiveTarget(await readManifest(cluster), resolver),
    async openStandbySource(cluster) {
      const { openClusterRepository } = await import('../operations/open-repository.ts');
      return {
        repository: await openClusterRepository(await readManifest(cluster), resolver),
      };
    },
    async openRecoverySource(path) {
      const { readRecoveryFile } = await import('../operations/recovery-file.ts');
      const file = await readRecoveryFile(path);
      if (file) return archives.openRecoverySource(file, resolver);
      throw new BackupError('config-invalid', `there is no file ${path}`, {
        hint: 'restore again, or write restore_command by hand: walkeep restore-command',
      });
    },
  };
}

function parseCluster(text: string): [namespace: string, name: string] {
  const at = text.indexOf('/');
  return at < 0 ? ['default', text] : [text.slice(0, at), text.slice(at + 1)];
}

/**
 * PostgreSQL acts on the exit code, and Node's own for an accident are 1, 7, 13 and so on, or 0 when nothing is left
 * to wait for. From here on every accident ends with `status`.
 */
export function answerWhateverHappens(status: () => number): void {
  process.exitCode = status();
  const end = (error: unknown) => {
    reportWalFailure('unforeseen', error);
    process.exit(status());
  };
  process.on('uncaughtException', end);
  process.on('unhandledRejection', end);
}

/** One line on standard error: PostgreSQL's log shows it. */
export function reportWalFailure(command: string, error: unknown): void {
  reportWalAlert(
    command,
    error instanceof BackupError ? `${error.code}: ${error.message}; ${error.hint}` : messageOf(error),
  );
}

/** As `reportWalFailure`, of what has not failed, and somebody has to know. */
export function reportWalAlert(command: string, text: string): void {
  process.stderr.write(`walkeep: ${command}: ${text.replaceAll(/\s+/g, ' ').trim().slice(0, 2000)}\n`);
}
