from nicc.cli import main

main()
