# Makes dist\runai\runai.exe: a program that runs where Python is not installed.
#
#   powershell -ExecutionPolicy Bypass -File bin\buildwindows.ps1
#
# As bin/buildlinux.sh does: the environment is .venv, or what RUNAI_VENV names; RUNAI_TORCH is
# what to install as torch, in pip's words. Not tried yet by those who wrote it: they have no
# Windows. See docs/building.md.
$ErrorActionPreference = "Stop"
Set-Location (Join-Path $PSScriptRoot "..")

function Run {
    $program, $words = $args
    & $program @words
    if ($LASTEXITCODE -ne 0) { throw "$args failed with $LASTEXITCODE" }
}

$venv = $env:RUNAI_VENV
if (-not $venv) {
    $venv = ".venv"
    if (-not (Test-Path "$venv\Scripts\python.exe")) {
        Run py -3 -m venv $venv
    }
    $torch = if ($env:RUNAI_TORCH) { $env:RUNAI_TORCH.Split(" ") } else { @("torch") }
    Run "$venv\Scripts\python.exe" -m pip install @torch
    Run "$venv\Scripts\python.exe" -m pip install .
}
Run "$venv\Scripts\python.exe" -m pip install "pyinstaller>=6.22,<7"
Run "$venv\Scripts\python.exe" -m PyInstaller --noconfirm packaging\runai.spec
Run ".\dist\runai\runai.exe" models
